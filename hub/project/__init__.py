"""A project directory, read and validated: what the integrator wrote, as frozen nouns.

`hub.project.files` reads the YAML into these; nothing else reads the files or the environment later.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the project something was written."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    url: str = field(repr=False)  # a libpq URL; holds the password
    slot: str  # replication slot and publication name of the stream "main"
    streams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by stream name: its entities
    kafka: Mapping[str, str] = field(default_factory=dict)  # distributed mode: bootstrap, connect, topic
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)  # by key as written, dotted: "streams.sales[0]"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns become fields: all, unless one of the lists is given."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)  # column: field
    places: Mapping[str, Place] = field(default_factory=dict)  # by column name as written


@dataclass(frozen=True, slots=True)
class Relation:
    """What one level of an entity embeds."""

    name: str  # the field that holds it
    kind: str  # belongs_to, has_one, has_many, many_to_many
    table: str  # "schema.table"
    # belongs_to: the parent's columns; has_*: the child's; many_to_many: the through table's, to the parent
    foreign_key: tuple[str, ...]
    references: tuple[str, ...] = ()  # the referenced columns, when they are not the primary key
    through: str = ""  # many_to_many: the table between
    related_key: tuple[str, ...] = ()  # many_to_many: the through table's columns to the child
    related_references: tuple[str, ...] = ()  # many_to_many: the child's columns, when they are not its primary key
    columns: Columns = Columns()
    order_by: tuple[str, ...] = ()
    soft_delete: str = ""
    refresh: bool = True
    relations: tuple["Relation", ...] = ()
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)  # by key as written: table, foreign_key, order_by …


@dataclass(frozen=True, slots=True)
class EntityConfig:
    name: str
    source: str
    table: str  # "schema.table"; "" for a derived entity
    key: tuple[str, ...] = ()  # () means the primary key
    columns: Columns = Columns()
    soft_delete: str = ""
    relations: tuple[Relation, ...] = ()
    derived: bool = False
    derived_from: tuple[str, ...] = ()  # destinations whose answers may forward it
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """What connectors may reach beside the public internet."""

    allow: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    rate: tuple[int, float] | None = None  # requests per seconds: 100/10s is (100, 10.0)
    concurrency: int = 8  # attempts at one time
    timeout: float = 15.0  # seconds, for one whole attempt
    network: Network = Network()  # the same for all of a hub


@dataclass(frozen=True, slots=True)
class Destination:
    name: str
    connector: str
    limits: Limits = Limits()
    answers: tuple[str, ...] = ()  # reschedule, forward
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the connector's own keys; may hold secrets
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    mode: str = "every"  # every, latest
    batch_size: int | None = None  # None: as many as the connector takes in one call
    batch_wait: float = 0.0  # seconds that one that is not full is waited for
    delay: float = 0.0  # seconds of quiet before sending
    # seconds between attempts
    retry: tuple[float, ...] = (5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR)
    expire: float = 30 * DAY  # seconds after which what is not delivered is parked
    on_park: str = "continue"  # continue, hold
    skip_unchanged: bool = False  # what the receiver has already is not sent


@dataclass(frozen=True, slots=True)
class SubscriptionConfig:
    name: str
    entity: str
    to: str
    match: Mapping[str, Any] | None = None  # the pattern as written
    where: str = ""
    on: tuple[str, ...] = ("created", "updated", "deleted")
    changed: tuple[str, ...] = ()
    when: str = ""
    body: Any = None  # None: a CloudEvent; else YAML whose strings are templates, or by event {created:, default: …}
    delivery: DeliveryPolicy = DeliveryPolicy()
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)  # by key as written, dotted: "match.customer.country"


@dataclass(frozen=True, slots=True)
class Console:
    host: str = "127.0.0.1"
    port: int = 8080
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Retention:
    documents: float = 30 * DAY  # seconds
    attempts: float = 7 * DAY  # seconds


@dataclass(frozen=True, slots=True)
class Project:
    name: str
    directory: Path
    sources: Mapping[str, Source]
    entities: Mapping[str, EntityConfig]
    destinations: Mapping[str, Destination]
    subscriptions: Mapping[str, SubscriptionConfig]
    store: str = field(repr=False)  # an SQLAlchemy URL, paths absolute
    console: Console = Console()
    retention: Retention = Retention()
    fan_out: int = 1000  # documents that one commit makes at once; more become a pending fan-out
