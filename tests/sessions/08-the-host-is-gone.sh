## mkdir laptop; mv lifeboat.toml gone.toml; mv keys keys-are-gone; mv catalog.db catalog-is-gone
# 04:10. The backup host burned down, lifeboat.toml and all. A fresh laptop, and the recovery card from the safe.
cd laptop; unset LIFEBOAT_CONFIG; lifeboat restore chat --plan
# The card has the vault's address, the key, and the public half of the signing key.
lifeboat restore chat --vault "$VAULT" --identity "$RECOVERY" --trust-key "$TRUST" --to "$TARGET dbname=chat" --plan
lifeboat restore chat --vault "$VAULT" --identity "$RECOVERY" --trust-key "$TRUST" --to "$TARGET dbname=chat" --check --yes
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
