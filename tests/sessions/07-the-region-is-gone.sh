## lifeboat copy dr >/dev/null 2>&1; mv vault vault-is-gone; mv keys/identity.txt keys/gone
# 03:55. The home region does not answer: not the vault, not the key.
lifeboat restore chat --to "$TARGET dbname=chat" --plan
# lifeboat.toml names a copy, and the recovery key is in the safe.
lifeboat restore chat --vault dr --to "$TARGET dbname=chat" --plan
lifeboat restore chat --vault dr --identity "$RECOVERY" --to "$TARGET dbname=chat" --check --yes
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
