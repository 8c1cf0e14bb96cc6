"""Debezium's settings for a stream: one pure function for both ways to run, and what the embedded engine adds.

Every line that is not a plain fact of the stream is there because its default corrupts, stalls or surprises.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from cdc.values import STREAM_SESSION, java_form
from hub.catalogue import Catalogue
from hub.errors import InputError

# What stands for an unchanged TOAST value. No text of Postgres can hold the NUL in it, so no value is taken for it.
UNAVAILABLE = "hub\x00unavailable"
TOPIC_PREFIX = "hub"
NOTIFICATIONS = "hub.notifications"
HEARTBEAT_PREFIX = "hub-heartbeat"


class StreamSettings(msgspec.Struct, frozen=True):
    """What one stream captures, and from where."""

    url: str  # of the source, as libpq reads it; holds the password
    slot: str  # replication slot and publication name
    columns: Mapping[str, Sequence[str]]  # by table "schema.table": the columns to capture
    catalogue: Catalogue

    def __repr__(self) -> str:
        return f"StreamSettings(slot={self.slot!r}, tables={sorted(self.columns)})"


def connector_settings(stream: StreamSettings, *, snapshot: bool) -> dict[str, str]:
    """The connector's own settings, embedded or on Kafka Connect. `snapshot`: take one first, on a new slot."""
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "topic.prefix": TOPIC_PREFIX,
        **connection_settings(stream.url),
        **_captured(stream),
        **_conversions(stream),
        "plugin.name": "pgoutput",
        "slot.name": stream.slot,
        "slot.drop.on.stop": "false",
        "slot.max.retries": "3",
        "publication.name": stream.slot,
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "initial" if snapshot else "no_data",
        "skipped.operations": "none",
        "tombstones.on.delete": "false",
        "provide.transaction.metadata": "false",
        "notification.enabled.channels": "sink",
        "notification.sink.topic.name": NOTIFICATIONS,
        # A batch waits for this long, so it is half the latency; and an idle engine wakes up as often.
        "heartbeat.interval.ms": "20",
        "poll.interval.ms": "20",
        # Records that wait for a slower consumer outlive the collector's young generation: a third of the rate.
        "max.batch.size": "2048",
        "max.queue.size": "4096",
        "errors.max.retries": "3",
        "event.processing.failure.handling.mode": "fail",
        "event.converting.failure.handling.mode": "fail",
        "schema.refresh.mode": "columns_diff",
        "status.update.interval.ms": "1000",
    }


def converter_settings(prefix: str) -> dict[str, str]:
    """Of the JSON converter: `converter` for the engine, `key.converter` and `value.converter` on Kafka Connect."""
    return {f"{prefix}.schemas.enable": "false", f"{prefix}.replace.null.with.default": "false"}


def engine_settings(stream: StreamSettings, *, snapshot: bool) -> dict[str, str]:
    """For the embedded engine: offsets are kept in memory, because the slot and the hub's store know the truth."""
    return connector_settings(stream, snapshot=snapshot) | {
        "name": f"hub-{stream.slot}",
        **converter_settings("converter"),
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "offset.flush.interval.ms": "500",
        "record.processing.threads": "4",
        "record.processing.order": "ORDERED",
        "record.processing.with.serial.consumer": "false",
    }


LARGEST_RECORD = 64 << 20  # bytes of one row as JSON: Postgres's own limit for a value is sixteen times that


def connect_settings(stream: StreamSettings, topic: str, password: str) -> dict[str, str]:
    """For Kafka Connect: all records of the stream go to one topic, in which they keep the order of commits.

    `password`: a reference that a config provider of the worker's resolves, such as ${env:NAME}. InputError when the
    source's url has another secret.
    """
    settings = connector_settings(stream, snapshot=True) | {
        "tasks.max": "1",
        # Debezium names its metrics by it. Of two connectors of one name, a worker's second tries that for a minute.
        "topic.prefix": topic,
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        **converter_settings("key.converter"),
        **converter_settings("value.converter"),
        # A record in a topic has no offset of the source's beside it: END records say where a transaction ends.
        "provide.transaction.metadata": "true",
        # A slot that stands after the connector's offset was made anew: fail, where the default goes on over the gap.
        "offset.mismatch.strategy": "trust_offset",
        "heartbeat.interval.ms": "0",
        "transforms": "route",
        "transforms.route.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.route.regex": ".*",
        "transforms.route.replacement": topic,
        "producer.override.compression.type": "lz4",
        "producer.override.max.request.size": str(LARGEST_RECORD),
    }
    if "database.sslpassword" in settings:
        raise InputError(
            "The source's url has an sslpassword, which everyone who asks Kafka Connect would see.",
            "Give Kafka Connect a key without a passphrase that only it can read.",
        )
    if "database.password" in settings:
        settings["database.password"] = password
    return settings


# libpq's names, and what Debezium calls them.
_CONNECTION = {
    "host": "database.hostname",
    "port": "database.port",
    "user": "database.user",
    "password": "database.password",
    "dbname": "database.dbname",
    "sslmode": "database.sslmode",
    "sslrootcert": "database.sslrootcert",
    "sslcert": "database.sslcert",
    "sslkey": "database.sslkey",
    "sslpassword": "database.sslpassword",
}
# What the JDBC driver takes as it is, and its name for it.
_DRIVER = {
    "connect_timeout": "driver.connectTimeout",
    "application_name": "driver.ApplicationName",
    "channel_binding": "driver.channelBinding",
    "target_session_attrs": "driver.targetServerType",
    "gssencmode": "driver.gssEncMode",
    "krbsrvname": "driver.kerberosServerName",
    "sslnegotiation": "driver.sslNegotiation",
}
_SERVER_TYPES = {
    "any": "any",
    "primary": "primary",
    "read-write": "primary",
    "standby": "secondary",
    "read-only": "secondary",
    "prefer-standby": "preferSecondary",
}
# keepalives and the like, which change nothing that is captured.
_IGNORED = {
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "client_encoding",
    "fallback_application_name", "sslsni", "hostaddr", "options",
}  # fmt: skip


def parse_url(url: str) -> dict[str, str]:
    """A libpq URL's parts. InputError when it is none; its password is not repeated."""
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError as error:
        raise InputError(
            "The source's url is not a Postgres URL.", "Write postgresql://user:password@host:port/database."
        ) from error
    return {name: str(value) for name, value in parts.items() if value is not None}


def connection_settings(url: str) -> dict[str, str]:
    parts = {"host": "localhost", "port": "5432"} | parse_url(url)
    unknown = sorted(parts.keys() - _CONNECTION.keys() - _DRIVER.keys() - _IGNORED)
    if unknown:
        raise InputError(
            f"The source's url has {', '.join(unknown)}, which Debezium's driver does not know.", "Leave it out."
        )
    if parts["host"].startswith("/") or "," in parts["host"]:
        raise InputError(f"The source's host {parts['host']!r} is not one name.", "Debezium connects to one TCP host.")
    parts.setdefault("user", "postgres")
    parts.setdefault("dbname", parts["user"])
    found = {_CONNECTION[name]: value for name, value in parts.items() if name in _CONNECTION}
    found |= {_DRIVER[name]: value for name, value in parts.items() if name in _DRIVER}
    if "driver.targetServerType" in found:
        found["driver.targetServerType"] = _SERVER_TYPES[found["driver.targetServerType"]]
    # Texts that come as they are must not depend on how the server or the role is set up.
    session = " ".join(f"-c {name}={value}" for name, value in STREAM_SESSION.items() if name != "TimeZone")
    return found | {"driver.options": session, "driver.binaryTransfer": "false", "database.tcpKeepAlive": "true"}


def _captured(stream: StreamSettings) -> dict[str, str]:
    columns = [f"{table}.{column}" for table, names in stream.columns.items() for column in names]
    return {
        "table.include.list": ",".join(_pattern(table) for table in stream.columns),
        "column.include.list": ",".join(_pattern(column) for column in columns),
    }


def _pattern(name: str) -> str:
    """A regular expression for just this name, in a list separated by commas; Debezium ignores case, which is harmless
    because names that differ in case alone are all matched and told apart later."""
    return re.sub(r"([^\w. ])", r"\\\1", name).replace(".", r"\.")


def _conversions(stream: StreamSettings) -> dict[str, str]:
    lines = [
        f"{name}\t{column}\t{form}"
        for name, columns in stream.columns.items()
        for column in columns
        if (table := stream.catalogue.tables.get(name))
        and (known := table.column(column))
        and (form := java_form(known))
    ]
    return {
        "converters": "hub",
        "hub.type": "hub.DocumentValues",
        "hub.columns": "\n".join(lines),
        "hub.unavailable": UNAVAILABLE,
        "unavailable.value.placeholder": UNAVAILABLE,
        "decimal.handling.mode": "string",
        "interval.handling.mode": "string",
        "binary.handling.mode": "base64",
        "hstore.handling.mode": "json",
        "time.precision.mode": "adaptive",
        # Without it the decoder gives null for the types that it does not know by name, `name` among them.
        "include.unknown.datatypes": "true",
    }
