## sed -i 's/^directory = "vault"/directory = "vault"\nstorage_class = "GLACIER"\ncold_speed = 7200/' lifeboat.toml
# 03:02. The payloads are in Glacier. (This vault rehearses it: hours pass 7200 times as fast.)
lifeboat restore chat --to "$TARGET dbname=chat" --plan
# Expedited would keep the RTO. The incident can wait for the morning: the cheap one, then.
lifeboat thaw chat --tier bulk --confirm
lifeboat thaw list
# The morning cannot wait, says the channel.
lifeboat restore chat --to "$TARGET dbname=chat" --tier standard --check --yes
lifeboat thaw list
#= [ "$(psql -d "$TARGET dbname=chat" -Atc 'SELECT count(*) FROM messages')" = 10000 ]
