## sleep 1.2; lifeboat backup chat >/dev/null 2>&1
## f=$(ls vault/manifests/chat/*.json | tail -n 1); sed -i 's/"sequence": 2/"sequence": 3/' "$f"
# 03:15. Somebody or something has been at the newest backup. Is it chosen?
lifeboat restore chat --to "$TARGET dbname=chat" --plan
# No: it is passed over and named, and the one before is used. Can the damaged one be had at all?
lifeboat restore chat --backup "$(basename "$(ls vault/manifests/chat/*.json | tail -n 1)" .json)" --to "$TARGET dbname=chat" --yes
lifeboat restore chat --to "$TARGET dbname=chat" --check --yes
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
