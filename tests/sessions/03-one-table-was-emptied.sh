## psql -q -d "$LIVE dbname=chat" -c 'DELETE FROM messages WHERE id > 5000'
# 03:41. Half of the messages were deleted by mistake. The rest of the database is fine and goes on being used.
lifeboat restore chat --to "$LIVE dbname=chat_rescue" --table mesages --plan
lifeboat restore chat --to "$LIVE dbname=chat_rescue" --table messages --check --yes
# What is missing goes back, and only that.
pg_dump -d "$LIVE dbname=chat_rescue" --data-only --table messages --inserts --on-conflict-do-nothing | psql -q -d "$LIVE dbname=chat" >/dev/null
psql -d "$LIVE dbname=chat" -c 'SELECT count(*) FROM messages'
#= [ "$(psql -d "$LIVE dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
