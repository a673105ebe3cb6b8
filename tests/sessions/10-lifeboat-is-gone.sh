## { echo '-----BEGIN PUBLIC KEY-----'; echo "$TRUST"; echo '-----END PUBLIC KEY-----'; } > trusted.pem; mkdir work
# 04:30. No lifeboat anywhere. There are age, zstd, openssl and Postgres' own programs, and each backup has a guide.
cd work; unset -f lifeboat; GUIDE=$VAULT/meta/chat/$(ls "$VAULT"/manifests/chat | sed -n 's/[.]json$//p' | sort | tail -n 1)/RESTORE.md; grep '^## ' "$GUIDE"
# It will be handed the recovery key: first, whether it is genuine, with the signing key from the card.
openssl pkeyutl -verify -pubin -inkey "$TRUSTED_KEY" -rawin -in "$GUIDE" -sigfile "$GUIDE".sig
# The guide's own blocks, in order, with the recovery key. (Step 3 has one block for each key; the one for the recovery key is taken.)
export IDENTITY=$RECOVERY; python3 -c 'import re,sys; t=open(sys.argv[1]).read(); print("\n".join(b for h,b in re.findall(r"(Slot `\w+`[^\n]*\n\n)?```bash\n(.*?)```", t, re.S) if not h or "recovery" in h))' "$GUIDE" > steps.sh
bash steps.sh
psql -d "$TARGET dbname=chat" -c 'SELECT count(*) FROM messages'
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
