"""The composition root: the one module that knows `cdc` and `connectors`, and joins them with the hub's own parts."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from hub.capture.role import Outside, definition
from hub.catalogue import Catalogue, Column
from hub.changes import NO_CURSOR, Feed, FeedPlan, lsn_text, parse_lsn
from hub.check import check
from hub.connector import read_settings
from hub.discovery import Connectors
from hub.dispatch.dispatcher import Dispatcher
from hub.documents import Shape
from hub.entities import Entity, captured_columns, compile_entity
from hub.errors import InputError, OutsideError, ProjectError
from hub.operate.catching_up import feed_holds, slot_holds
from hub.operate.status import LogEnd, ask_log_end
from hub.project import Project, Source, SubscriptionConfig
from hub.project.streams import entities_of, stream_of, tables_of
from hub.store import streams
from hub.store.database import Store
from hub.store.streams import StreamState
from hub.subscriptions import Subscription

if TYPE_CHECKING:
    from cdc.group import Group
    from cdc.settings import StreamSettings
    from cdc.topics import Topic


def read_catalogue(source: Source, tables: Sequence[str] | None = None) -> Catalogue:
    """The source's catalogue. OutsideError when the source cannot be reached."""
    from cdc import catalogue
    from cdc import source as sources

    with sources.connect(source.url) as connection:
        return catalogue.read_catalogue(connection, tables)


def unsupported_type(column: Column, server_version: int) -> str | None:
    """Why a column's values cannot be followed exactly; None when they can."""
    from cdc import values

    return values.unsupported(column, server_version)


def value_expression(column: Column, operand: str | None = None) -> str:
    """The SQL expression that returns what a document holds of a column."""
    from cdc import values

    return values.sql_expression(column, operand)


def value_session() -> Mapping[str, str]:
    """The settings that a session needs for `value_expression`."""
    from cdc import values

    return values.SESSION


class StreamOutside(Outside):
    """One stream's source, by `cdc`."""

    def __init__(self, project: Project, stream: str) -> None:
        self._project = project
        self._stream = stream
        self._source = source_of(project, stream)
        self._slot = slot_of(self._source, stream)

    def read_catalogue(self) -> Catalogue:
        catalogue = read_catalogue(self._source, sorted(self._tables()))
        problems = [p for p in check(self._project, {self._source.name: catalogue}, unsupported_type) if not p.warning]
        if problems:
            raise ProjectError(problems)
        return catalogue

    def _tables(self) -> set[str]:
        return {
            table
            for config in self._project.entities.values()
            if config.source == self._source.name and not config.derived
            for table in tables_of(config)
        }

    def refuse_foreign_slot(self) -> None:
        from cdc import source as sources

        with sources.connect(self._source.url) as connection:
            if sources.read_slot(connection, self._slot) is not None:
                raise OutsideError(
                    f"The replication slot {self._slot} exists, and this store has never read from it.",
                    f"If nothing else does, run SELECT pg_drop_replication_slot('{self._slot}') at the source; "
                    "otherwise give this source another `slot:`.",
                )

    def missed(self, position: int, cursor: int) -> str:
        from cdc import source as sources

        with sources.connect(self._source.url) as connection:
            slot = sources.read_slot(connection, self._slot)
        if slot is None:
            return f"the slot {self._slot} is gone"
        if slot.wal_status == "lost":
            return f"the slot {self._slot} has lost its log (max_slot_wal_keep_size)"
        if sources.gap(slot, position):
            if cursor != NO_CURSOR:
                raise OutsideError(
                    f"Kafka Connect has followed {self._stream}, and its topic has what the store has not read yet.",
                    "Put `kafka:` back into hub.yaml and let capture read it, or run `hub source resnapshot "
                    f"{self._stream}`.",
                )
            return f"the slot {self._slot} stands at {lsn_text(slot.confirmed)}, after the store's {lsn_text(position)}"
        return ""

    def require_ready(self, catalogue: Catalogue, plan: FeedPlan) -> None:
        from cdc import source as sources
        from cdc.settings import StreamSettings

        settings = StreamSettings(self._source.url, self._slot, plan.columns, catalogue)
        sources.check_start(settings, snapshot=plan.snapshot, position=plan.position)

    @property
    def keeps_snapshots(self) -> bool:
        return False

    def renew(self, *, first: bool) -> int:
        return NO_CURSOR

    def mark(self) -> int:
        from cdc import source as sources

        with sources.connect(self._source.url) as connection:
            query = "SELECT pg_logical_emit_message(false, 'hub-mark', '')"
            row = connection.execute(query).fetchone()
        assert row is not None
        return parse_lsn(str(row[0]))


class TopicOutside(StreamOutside):
    """One stream's source, and its connector on Kafka Connect, whose slot it is."""

    def refuse_foreign_slot(self) -> None:
        return None

    def missed(self, position: int, cursor: int) -> str:
        """What Connect has read is in the topic, whose bounds are looked at later; what it cannot read is not."""
        from cdc import source as sources

        if cursor == NO_CURSOR:
            raise OutsideError(
                f"The embedded engine has followed {self._stream} so far.",
                f"Run `hub source register {self._stream}`: Kafka Connect then goes on from the engine's slot.",
            )
        with sources.connect(self._source.url) as connection:
            slot = sources.read_slot(connection, self._slot)
        if slot is None:
            return f"the slot {self._slot} is gone"
        return f"the slot {self._slot} has lost its log (max_slot_wal_keep_size)" if slot.wal_status == "lost" else ""

    def require_ready(self, catalogue: Catalogue, plan: FeedPlan) -> None:
        topic = build_topic(self._project, self._stream)
        if topic.connect.settings(topic.connector) is None:
            raise OutsideError(
                f"Kafka Connect has no connector {topic.connector}.", f"Run `hub source register {self._stream}`."
            )

    @property
    def keeps_snapshots(self) -> bool:
        return True

    def renew(self, *, first: bool) -> int:
        from cdc import topics

        topic = build_topic(self._project, self._stream)
        settings = stream_settings(self._project, self._stream, self.read_catalogue())
        password = _known_password(topic) or password_reference(self._source)
        if first and topics.is_whole(settings, topic, password):
            return 0
        return topics.renew(settings, topic, password)

    def mark(self) -> int:
        """A message is known in the topic by where it begins."""
        from cdc import source as sources

        with sources.connect(self._source.url) as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            connection.execute("SELECT pg_logical_emit_message(false, 'hub-mark', '')")
        assert row is not None
        return parse_lsn(str(row[0]))


def build_outside(project: Project, stream: str) -> Outside:
    return (TopicOutside if source_of(project, stream).kafka else StreamOutside)(project, stream)


def source_of(project: Project, stream: str) -> Source:
    return project.sources[stream.split("/", 1)[0]]


def topic_of(source: Source, stream: str) -> str:
    """The topic of a stream: the source's own for "main", with the stream's name behind for others."""
    name = stream.split("/", 1)[1]
    topic = source.kafka.get("topic") or f"hub.{source.name}"
    return topic if name == "main" else f"{topic}.{name}"


def build_topic(project: Project, stream: str) -> "Topic":
    """Topic and connector of a stream. OutsideError when it has none: its source is followed by the engine."""
    from cdc.connect import Connect
    from cdc.topics import Topic

    source = source_of(project, stream)
    if not source.kafka:
        raise OutsideError(
            f"The source {source.name} is followed by the embedded engine.", "Give it `kafka:` for Kafka Connect."
        )
    connector = f"hub-{project.name}-{stream.replace('/', '-')}"
    return Topic(source.kafka["bootstrap"], topic_of(source, stream), Connect(source.kafka["connect"]), connector)


def reach_topic(project: Project, stream: str) -> None:
    """OutsideError when the Kafka of a stream does not answer."""
    topic = build_topic(project, stream)
    with closing(topic.connect):
        topic.reach()


def password_reference(source: Source) -> str:
    """What stands for a source's password in its connectors' settings: a variable of Connect's own environment."""
    name = "".join(c if c.isalnum() else "_" for c in source.name.upper())
    return f"${{env:HUB_{name}_PASSWORD}}"


def stream_settings(project: Project, stream: str, catalogue: Catalogue) -> "StreamSettings":
    from cdc.settings import StreamSettings

    source = source_of(project, stream)
    return StreamSettings(source.url, slot_of(source, stream), _stream_columns(project, stream, catalogue), catalogue)


def connector_config(project: Project, stream: str, password: str) -> dict[str, str]:
    """The settings of a stream's connector; `password`: a reference, "" for the source's own.

    OutsideError when the source cannot be reached.
    """
    from cdc.settings import connect_settings

    source = source_of(project, stream)
    settings = stream_settings(project, stream, read_catalogue(source))
    return connect_settings(settings, topic_of(source, stream), password or password_reference(source))


def register_connector(project: Project, stream: str, store: Store | None, replication: int, password: str) -> bool:
    """Make a stream's topic and connector, and wait until it runs. True when it goes on from the engine's slot."""
    from cdc import topics

    source = source_of(project, stream)
    settings = stream_settings(project, stream, build_outside(project, stream).read_catalogue())
    topic = build_topic(project, stream)
    password = password or _known_password(topic) or password_reference(source)
    state = streams.load_stream(store, stream) if store else None
    if store is not None and state is not None and state.state == streams.STREAMING and state.cursor == NO_CURSOR:
        streams.follow_topic(store, state, topics.take_slot(settings, topic, password, replication, state.position))
    return topics.register(settings, topic, password, replication)


def _known_password(topic: "Topic") -> str:
    """The reference that the connector has; "" when there is none."""
    return (topic.connect.settings(topic.connector) or {}).get("database.password", "")


def streams_of_topics(project: Project) -> dict[str, str]:
    """By topic: the stream that it holds."""
    return {topic_of(source_of(project, name), name): name for name in stream_names(project)}


def build_group(project: Project, worker: str) -> "Group":
    """This worker's membership. InputError when the sources are on several Kafkas."""
    from cdc.group import Group

    bootstraps = sorted({source.kafka["bootstrap"] for source in project.sources.values()})
    if len(bootstraps) > 1:
        raise InputError(
            f"The sources are on several Kafkas: {', '.join(bootstraps)}.", "Name a stream of one with --stream."
        )
    return Group(bootstraps[0], f"hub.{project.name}", streams_of_topics(project), worker)


def require_worker(store: Store) -> None:
    """OutsideError when several machines could not share the store."""
    if store.is_sqlite:
        raise OutsideError(
            "Workers that share the streams need a store that they can share.", "Give hub.yaml a Postgres `store:`."
        )


def slot_of(source: Source, stream: str) -> str:
    """Slot and publication of a stream: the source's own name for "main", with the stream's name behind for others."""
    name = stream.split("/", 1)[1]
    return source.slot if name == "main" else f"{source.slot}_{name}"


def build_feed(
    project: Project, store: Store, stream: str, catalogue: Catalogue, columns: Mapping[str, Sequence[str]]
) -> Feed:
    """The way in of one stream. OutsideError when the embedded engine is wanted and its extra is not installed."""
    from cdc.settings import StreamSettings

    source = source_of(project, stream)
    settings = StreamSettings(source.url, slot_of(source, stream), columns, catalogue)
    if source.kafka:
        from cdc.topics import TopicFeed

        return TopicFeed(settings, build_topic(project, stream))
    from cdc.engine import EngineFeed

    directory = store.path.parent if store.is_sqlite else project.directory / "var"
    return EngineFeed(settings, directory)


def unread(project: Project, store: Store, stream: str, stored: int) -> bool:
    """Whether a row change after `stored` waits for a stream's capture, which does not run: in its topic, or its slot.

    OutsideError when that cannot be told.
    """
    source = source_of(project, stream)
    if not source.kafka:
        return slot_holds(partial(connect_source, source), slot_of(source, stream), stored)
    state = streams.load_stream(store, stream)
    if state is None or state.state != streams.STREAMING:
        return True
    columns = _stream_columns(project, stream, state.catalogue)
    feed = build_feed(project, store, stream, state.catalogue, columns)
    try:
        feed.start(FeedPlan(False, stored, columns, state.cursor))
        return feed_holds(feed, stored, build_outside(project, stream).mark())
    finally:
        feed.close()


def require_engine(project: Project) -> None:
    """OutsideError when the embedded engine is needed and not installed: no restart would mend that."""
    if all(source.kafka for source in project.sources.values()):
        return
    from cdc.jvm import require_installed

    require_installed()


def stored_entities(project: Project, store: Store) -> dict[str, Entity]:
    """Entities as the stored documents were made; those whose snapshot is due are left out."""
    known = streams.load_streams(store)
    entities: dict[str, Entity] = {}
    for stream in stream_names(project):
        for config in entities_of(project, stream):
            # One that is to move is as the stream that has it still, or had it last, knows it.
            states = [state for state in known if state.name == stream or config.name in state.entities]
            state = min(states, key=lambda one: (config.name not in one.holds(), one.name != stream), default=None)
            if state is None:
                continue
            try:
                entities[config.name] = compile_entity(config, state.catalogue)
            except InputError:  # a new snapshot is due for what was changed to a column that came since
                if config.name in state.entities and state.entities[config.name].definition == definition(config):
                    raise
    return entities


def retired_streams(project: Project, store: Store) -> list[str]:
    """Streams of the project's sources that the store knows, and that have no entity any more."""
    names = stream_names(project)
    known = (state.name for state in streams.load_streams(store))
    return [name for name in known if name not in names and name.split("/", 1)[0] in project.sources]


def stream_names(project: Project) -> list[str]:
    """ "source/stream", of every stream that has entities."""
    return sorted({stream_of(project, entity) for entity in project.entities.values() if not entity.derived})


def compile_subscription(config: SubscriptionConfig, entities: Mapping[str, Entity]) -> Subscription:
    entity = entities.get(config.entity)
    return Subscription.compile(config, entity.shape if entity else Shape({}))


def find_connectors(directory: Path | None) -> Connectors:
    """The connectors of the hub, of installed packages and of the project in `directory`, by name."""
    import connectors
    from connectors.declarative import read_definition

    return Connectors(connectors, read_definition, directory)


def has_side_effects(project: Project, destination: str) -> bool:
    """Whether what is delivered there cannot be taken back."""
    return find_connectors(project.directory)(project.destinations[destination].connector).side_effects


def build_dispatcher(project: Project, store: Store) -> Dispatcher:
    """ProjectError when a destination's settings are not what its connector takes."""
    kinds = find_connectors(project.directory)
    openers = {}
    for name, destination in project.destinations.items():
        kind = kinds(destination.connector)
        openers[name] = partial(kind.open, read_settings(kind, destination), destination.limits)
    subscriptions = partial(_stored_subscriptions, project, store)
    subscriptions()  # its problems are the project's
    return Dispatcher(store, project, subscriptions, openers)


def _stored_subscriptions(project: Project, store: Store) -> Mapping[str, Subscription]:
    entities = stored_entities(project, store)
    return {name: compile_subscription(config, entities) for name, config in project.subscriptions.items()}


def connect_source(source: Source, **settings: Any) -> psycopg.Connection[Any]:
    """`settings`: libpq's, in the place of the URL's."""
    from cdc import source as sources

    return sources.connect(source.url, **settings)


def log_end(project: Project, stream: str, **settings: Any) -> LogEnd:
    """Where a stream's log is, how its slot stands, and the way to here. `settings` as of `connect_source`."""
    source = source_of(project, stream)
    found = ask_log_end(lambda: connect_source(source, **settings), slot_of(source, stream))
    return replace(found, way=_way(project, stream)) if source.kafka else found


def _way(project: Project, stream: str) -> str:
    """What keeps a stream's changes from coming by Kafka; "" when nothing does."""
    topic = build_topic(project, stream)
    with closing(topic.connect):
        return topic.problem()


def _stream_columns(project: Project, stream: str, catalogue: Catalogue) -> Mapping[str, Sequence[str]]:
    return captured_columns([compile_entity(config, catalogue) for config in entities_of(project, stream)])


def source_sql(project: Project, stream: str, catalogue: Catalogue) -> str:
    """The SQL that a DBA runs once for one stream."""
    from cdc import source as sources

    source = source_of(project, stream)
    return sources.source_sql(
        _stream_columns(project, stream, catalogue), catalogue, slot_of(source, stream), source.url
    )


def retire_sql(project: Project, stream: str) -> str:
    """What takes away a stream's slot and publication, as comments: it is the reader's to choose when."""
    from cdc import source as sources

    source = source_of(project, stream)
    lines = ["-- It has no entity any more. Once `hub run` runs with this project, drop its slot, which keeps the log:"]
    if source.kafka:
        lines.append(f"-- first, `hub source status {stream} --delete` takes its connector away.")
    return "\n".join([*lines, sources.retire_sql(slot_of(source, stream))])


def diagnose(project: Project, stream: str, state: StreamState | None) -> list[tuple[str, str, bool]]:
    """What there is to say of a stream's source: (sentence, remedy, whether it keeps the stream from running).

    `state`: the store's. OutsideError when the source is out of reach, or was followed in another way so far.
    """
    from cdc import source as sources

    source = source_of(project, stream)
    settings = stream_settings(project, stream, read_catalogue(source))
    follows = state is not None and state.state == streams.STREAMING
    position = 0
    if state is not None and follows:
        build_outside(project, stream).missed(state.position, state.cursor)
        # On Kafka the slot is Connect's: what it has confirmed is in the topic.
        position = 1 << 63 if source.kafka else state.position
    with sources.connect(source.url) as connection:
        found = sources.findings(connection, settings, snapshot=not follows, position=position, starting=False)
    return [(each.what, each.remedy, each.fatal) for each in found]
