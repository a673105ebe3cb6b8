# 03:07. The database server is gone for good; an empty one stands in its place. First: what is there, and is that the name?
lifeboat restore cat --plan
lifeboat restore chat --plan
# That can be pasted into the channel. Where would it go?
lifeboat restore chat --to "$TARGET dbname=chat" --plan --check
lifeboat restore chat --to "$TARGET dbname=chat" --check --yes
psql -d "$TARGET dbname=chat" -c 'SELECT count(*) FROM messages'
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
