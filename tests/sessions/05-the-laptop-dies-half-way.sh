# 03:33. In the middle of the restore the laptop's battery is empty.
(export LIFEBOAT_FAILPOINT=restore-rows; lifeboat --quiet restore chat --to "$TARGET dbname=chat" --check --yes)
# Another host, some minutes later. What is there says of itself that it is not finished.
psql -d "$TARGET dbname=postgres" -Atc "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'chat'"
# The runbook: the same command again.
lifeboat restore chat --to "$TARGET dbname=chat" --check --yes
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
