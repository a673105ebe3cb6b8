## sleep 1.2; psql -q -d "$LIVE dbname=chat" -c 'UPDATE messages SET body = NULL'; lifeboat backup chat >/dev/null 2>&1
# 03:20. A migration set every body to NULL, and the nightly backup ran after it. The database is in use.
psql -d "$LIVE dbname=chat" -c 'SELECT count(*), count(body) FROM messages'
lifeboat list chat
# The one before. Its time is in the list; everything from before the newest will do.
BEFORE=$(lifeboat list chat --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["snapshot"])')
lifeboat restore chat --at "$BEFORE" --to "$LIVE dbname=chat" --plan
# It is not empty, it says; --swap is what is wanted: loaded beside it, compared, then the names are traded.
lifeboat restore chat --at "$BEFORE" --to "$LIVE dbname=chat" --swap --plan
lifeboat restore chat --at "$BEFORE" --to "$LIVE dbname=chat" --swap --yes
psql -d "$LIVE dbname=chat" -c 'SELECT count(*), count(body) FROM messages'
psql -d "$LIVE dbname=postgres" -Atc "SELECT datname FROM pg_database WHERE datname LIKE 'chat%' ORDER BY 1"
#= [ "$(psql -d "$LIVE dbname=chat" -Atc 'SELECT count(body) FROM messages')" = 10000 ]
