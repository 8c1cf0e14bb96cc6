"""The store's tables. Alembic's migrations in `migrations/` make them; this is the same schema for statements.

Names that repeat in every row (tables, entities, subscriptions) are interned in `name` as small integers.
Times are microseconds since 1970, UTC. When Postgres vacuums them, and where it leaves room, is migration 0002's alone.
Who writes what:

    capture    stream, row_image, row_reference, spool, document, fan_out, fan_out_item, delivery (insert)
    dispatch   delivery (update, delete), attempt, ledger, destination_state, dispatch_worker, dispatch_slice; of what
               receivers ask for: document and lineage (derived entities), delivery (insert)
    command    subscription_state, replay, delivery (insert by replay and backfill; discard), document (erase)
"""

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects import sqlite

from hub.documents import Cause, Event

metadata = MetaData()

# Events and causes are stored as their place in these; a new one is added at the end.
EVENTS = (Event.CREATED, Event.UPDATED, Event.DELETED)
DELETED = EVENTS.index(Event.DELETED)
CAUSES = (Cause.ROW, Cause.FILTER, Cause.SNAPSHOT, Cause.RESYNC, Cause.BACKFILL, Cause.REPLAY)
PENDING, PARKED, SUPERSEDED = range(3)  # delivery.state

# Keys are compared by code point everywhere, so that the store pages through them as Python orders them.
Key = Text().with_variant(Text(collation="C"), "postgresql")

# SQLite gives a row number of its own to an INTEGER PRIMARY KEY alone.
Serial = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")

identity = Table(
    "identity",
    metadata,
    Column("id", Text, primary_key=True),  # made once; kept when the store is copied; part of every delivery id
    Column("created_at", BigInteger, nullable=False),
    Column("moved_to", Text, nullable=True),  # the store that took this one's place, which must not be run; null: none
)

name = Table(
    "name",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),  # source, stream, table, lookup, entity, subscription, dropped …
    Column("name", Text, nullable=False),
    Index("name_kind_name", "kind", "name", unique=True),
)

stream = Table(
    "stream",
    metadata,
    Column("stream_id", Integer, primary_key=True, autoincrement=False),  # name.id, "source/stream"
    Column("position", BigInteger, nullable=False),  # commit LSN of the last transaction applied or spooled whole
    Column("state", Text, nullable=False),  # snapshot, streaming, resnapshot (asked for)
    Column("run", Integer, nullable=False),  # number of the snapshot run that rows are written with
    Column("catalogue", LargeBinary, nullable=False),  # Catalogue as JSON: what documents are made with
    Column("entities", LargeBinary, nullable=False),  # hub.store.streams.Held by name, as JSON
    Column("problem", Text, nullable=False),  # why the stream stands still, "" when it does not
    Column("seen_at", BigInteger, nullable=False),  # when something last arrived
    # Of tables whose rows the journal holds whole: row images are as of this document; null: as of now.
    Column("imaged", BigInteger, nullable=True),
    Column("cursor", BigInteger, nullable=False),  # where reading goes on in a topic; -1: as the position says
    Column("epoch", Integer, nullable=False),  # raised by each process that takes the stream: an older one cannot write
)

table_state = Table(
    "table_state",
    metadata,
    Column("table_id", Integer, primary_key=True, autoincrement=False),  # name.id, "source/stream/schema.table"
    Column("floor", Integer, nullable=False),  # rows of a lower run are absent: swept by a snapshot or a truncate
    Column("swept", Integer, nullable=False),  # rows below this run have been removed
    Column("drift", Text, nullable=False),  # what changed in the table's columns, "" when nothing did
)

row_image = Table(
    "row_image",
    metadata,
    Column("table_id", Integer, primary_key=True, autoincrement=False),
    Column("key", Key, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("image", LargeBinary, nullable=False),  # the used columns as JSON
    sqlite_with_rowid=False,
)

row_reference = Table(
    "row_reference",
    metadata,
    Column("lookup_id", Integer, primary_key=True, autoincrement=False),  # name.id, "table_id(column,column)"
    Column("value", Key, primary_key=True),
    Column("row_key", Key, primary_key=True),
    sqlite_with_rowid=False,
)

spool = Table(
    "spool",
    metadata,
    Column("stream_id", Integer, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("transaction", BigInteger, nullable=False),
    Column("changes", LargeBinary, nullable=False),
)

document = Table(
    "document",
    metadata,
    Column("seq", Serial, primary_key=True),  # the journal's order
    Column("entity_id", Integer, nullable=False),
    Column("key", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("event", SmallInteger, nullable=False),  # of EVENTS
    Column("cause", SmallInteger, nullable=False),  # of CAUSES
    Column("lsn", BigInteger, nullable=False),
    Column("transaction", BigInteger, nullable=False),
    Column("committed_at", BigInteger, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("merged", Text, nullable=True),  # JSON list of earlier transaction ids that this version stands for too
    Column("body", LargeBinary, nullable=True),  # the document as JSON; null when deleted
    Index("document_version", "entity_id", "key", "version", unique=True),
    sqlite_autoincrement=True,
)

# A derived entity's version, and the delivery whose receiver forwarded it.
lineage = Table(
    "lineage",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("entity_id", Integer, nullable=False),
    Column("key", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("hops", SmallInteger, nullable=False),  # forwards between a source's commit and this version: 1, 2 …
    Column("from_subscription_id", Integer, nullable=False),
    Column("from_entity_id", Integer, nullable=False),
    Column("from_key", Key, nullable=False),
    Column("from_version", Integer, nullable=False),
    Column("from_turn", Integer, nullable=False),
    Index("lineage_document", "entity_id", "key", "version", unique=True),
    Index("lineage_origin", "from_entity_id", "from_key", "from_version"),
    sqlite_autoincrement=True,
)

fan_out = Table(
    "fan_out",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("stream_id", Integer, nullable=False),
    Column("lsn", BigInteger, nullable=False),
    Column("transaction", BigInteger, nullable=False),
    Column("committed_at", BigInteger, nullable=False),
    Column("cause", SmallInteger, nullable=False),
    Column("spooled", SmallInteger, nullable=False),  # 1 while row changes in the spool are still to be applied
    Column("made", Integer, nullable=False),  # documents made so far
    sqlite_autoincrement=True,
)

fan_out_item = Table(
    "fan_out_item",
    metadata,
    Column("entity_id", Integer, primary_key=True, autoincrement=False),
    Column("node", SmallInteger, primary_key=True, autoincrement=False),  # of the entity's tree; 0: key is a document's
    Column("key", Key, primary_key=True),  # the value that the node is joined by; "" with node -1: every document
    Column("fan_out_id", BigInteger, primary_key=True, autoincrement=False),
    Column("cursor", Key, nullable=True),  # the last row key that has been done
    sqlite_with_rowid=False,
)

delivery = Table(
    "delivery",
    metadata,
    # Only what is not settled: a delivered one leaves, its attempts stay.
    Column("seq", Serial, primary_key=True),
    Column("subscription_id", Integer, nullable=False),
    Column("entity_id", Integer, nullable=False),
    Column("key", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("before_version", Integer, nullable=False),  # the last version that was in the set; 0: none
    Column("turn", Integer, nullable=False),
    Column("event", SmallInteger, nullable=False),  # the event for this subscription
    Column("cause", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),  # 0 pending, 1 parked, 2 superseded, 3 released, 4 rescheduled
    Column("due_at", BigInteger, nullable=False),  # not before; 0: at once
    Column("attempts", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=True),  # why it is parked or waits
    Column("replay_id", Integer, nullable=True),  # the replay or backfill that asked for it
    Index("delivery_document", "entity_id", "key", "version"),
    # Parked, superseded, released and rescheduled ones: a delivery that just goes out pays nothing for it.
    Index(
        "delivery_not_pending",
        "state",
        "entity_id",
        "key",
        sqlite_where=text("state <> 0"),
        postgresql_where=text("state <> 0"),
    ),
    sqlite_autoincrement=True,
)

# On Postgres: the transaction that it came with, which the server fills in. No look misses one whose commit came late.
BORN = (
    "ALTER TABLE delivery ADD COLUMN born xid8 NOT NULL DEFAULT pg_current_xact_id()",
    "CREATE INDEX delivery_born ON delivery (born)",
)
for statement in BORN:
    event.listen(delivery, "after_create", DDL(statement).execute_if(dialect="postgresql"))  # type: ignore[no-untyped-call]

attempt = Table(
    "attempt",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("subscription_id", Integer, nullable=False),
    Column("entity_id", Integer, nullable=False),
    Column("key", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("event", SmallInteger, nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, 3 …
    Column("started_at", BigInteger, nullable=False),
    Column("duration", Integer, nullable=False),  # microseconds
    Column(
        "outcome", SmallInteger, nullable=False
    ),  # 0 delivered, 1 retry, 2 reschedule, 3 refused, 4 dead, 5 held, 6 unchanged
    Column("detail", Text, nullable=True),  # status and the beginning of the answer, secrets redacted
    Column("replay_id", Integer, nullable=True),
    Index("attempt_document", "entity_id", "key", "version"),
    sqlite_autoincrement=True,
)

# What each receiver has of a document, as far as its answers say; see hub.delivery.Held.
ledger = Table(
    "ledger",
    metadata,
    Column("entity_id", Integer, primary_key=True, autoincrement=False),
    Column("key", Key, primary_key=True),
    Column("subscription_id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),  # last accepted; 0: none yet
    Column("event", SmallInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),  # a hash of what was accepted; see there
    Column("receiver_id", Text, nullable=False),  # the receiver's own name for it; "": it gave none
    Column("accepted_at", BigInteger, nullable=False),
    Column("account", LargeBinary, nullable=True),  # the receiver that named it so; NULL: none did, or it is not known
    sqlite_with_rowid=False,
)

subscription_state = Table(
    "subscription_state",
    metadata,
    Column("subscription_id", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),  # active, paused (by an operator), disabled (by the receiver's 410)
    Column("reason", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("definition", Text, nullable=False),  # as last run, to say what changed
)

destination_state = Table(
    "destination_state",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("held_since", BigInteger, nullable=False),  # 0: well
    Column("reason", Text, nullable=False),
    Column("probe_at", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False, server_default="0"),  # probes in a row that met the fault
)

# On Postgres, where several dispatch workers share the deliveries.
dispatch_worker = Table(
    "dispatch_worker",
    metadata,
    Column("id", Integer, primary_key=True),  # never given again: what a lost worker still writes is known by it
    Column("name", Text, nullable=False),  # "pid 17 on machine"
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),  # lost once the server's clock is past it
    Column("destinations", Text, nullable=False),  # JSON: by name, how many attempts at once it takes
    sqlite_autoincrement=True,
)

dispatch_slice = Table(
    "dispatch_slice",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("slice", SmallInteger, primary_key=True, autoincrement=False),
    Column("worker_id", Integer, ForeignKey("dispatch_worker.id", ondelete="SET NULL"), nullable=True),
)

replay = Table(
    "replay",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),  # replay, backfill
    Column("request", Text, nullable=False),  # its filters as JSON
    Column("cursor", Text, nullable=False),  # how far its deliveries have been written
    Column("planned", Integer, nullable=False),
    Column("written", Integer, nullable=False),
    Column("finished_at", BigInteger, nullable=False),  # 0: not yet
)
