## mv keys/identity.txt keys/gone
# 03:26. The key that opens backups is gone, and with it everybody's good mood.
lifeboat restore chat --to "$TARGET dbname=chat" --plan
# Any one slot is enough, it says.
lifeboat recovery-key test < "$RECOVERY"
lifeboat restore chat --identity "$RECOVERY" --to "$TARGET dbname=chat" --check --yes
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
