"""What runs beside the hub in the distributed mode: Kafka, Kafka Connect with Debezium, and a Postgres to follow.

versions.env            the versions, for the local stack and for containers
broker.properties       Kafka's settings, as compose.yaml takes them; the local stack changes addresses and folders
connect.properties      Connect's, the same way
jars.py                 the jars, by Maven
servers.py              a Java server as a local process: started, killed, started again
kafka.py, connect.py    the two of them
local.py                all together, for `make stack`
"""
