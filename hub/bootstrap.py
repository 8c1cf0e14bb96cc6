"""The composition root: the one module that knows `cdc` and `connectors`, and joins them with the hub's own parts."""

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import psycopg

from hub.capture.role import Outside, definition, entities_of
from hub.catalogue import Catalogue, Column
from hub.changes import Feed, FeedPlan, lsn_text, parse_lsn
from hub.check import check
from hub.connector import Kinds, kinds_of_package, read_settings
from hub.dispatch.dispatcher import Dispatcher
from hub.documents import Shape
from hub.entities import Entity, captured_columns, compile_entity
from hub.errors import InputError, OutsideError, ProjectError
from hub.operate.status import LogEnd, ask_log_end
from hub.project import Project, Source, SubscriptionConfig
from hub.store import streams
from hub.store.database import Store
from hub.subscriptions import Subscription


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
        self._source = project.sources[stream.split("/", 1)[0]]
        self._slot = slot_of(self._source, stream)

    def read_catalogue(self) -> Catalogue:
        catalogue = read_catalogue(self._source, sorted(self._tables()))
        problems = [p for p in check(self._project, {self._source.name: catalogue}, unsupported_type) if not p.warning]
        if problems:
            raise ProjectError(problems)
        return catalogue

    def _tables(self) -> set[str]:
        def below(relations: Sequence[Any]) -> set[str]:
            return {
                name
                for relation in relations
                for name in (relation.table, relation.through, *below(relation.relations))
                if name
            }

        return {
            table
            for config in self._project.entities.values()
            if config.source == self._source.name and not config.derived
            for table in {config.table, *below(config.relations)}
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

    def missed(self, position: int) -> str:
        from cdc import source as sources

        with sources.connect(self._source.url) as connection:
            slot = sources.read_slot(connection, self._slot)
        if slot is None:
            return f"the slot {self._slot} is gone"
        if slot.wal_status == "lost":
            return f"the slot {self._slot} has lost its log (max_slot_wal_keep_size)"
        if sources.gap(slot, position):
            return f"the slot {self._slot} stands at {lsn_text(slot.confirmed)}, after the store's {lsn_text(position)}"
        return ""

    def require_ready(self, catalogue: Catalogue, plan: FeedPlan) -> None:
        from cdc import source as sources
        from cdc.settings import StreamSettings

        settings = StreamSettings(self._source.url, self._slot, plan.columns, catalogue)
        sources.check_start(settings, snapshot=plan.snapshot, position=plan.position)

    def mark(self) -> int:
        from cdc import source as sources

        with sources.connect(self._source.url) as connection:
            query = "SELECT pg_logical_emit_message(false, 'hub-mark', '')"
            row = connection.execute(query).fetchone()
        assert row is not None
        return parse_lsn(str(row[0]))


def slot_of(source: Source, stream: str) -> str:
    """Slot and publication of a stream: the source's own name for "main", with the stream's name behind for others."""
    name = stream.split("/", 1)[1]
    return source.slot if name == "main" else f"{source.slot}_{name}"


def build_feed(
    project: Project, store: Store, stream: str, catalogue: Catalogue, columns: Mapping[str, Sequence[str]]
) -> Feed:
    """The embedded engine of one stream. OutsideError when its extra is not installed."""
    from cdc.engine import EngineFeed
    from cdc.settings import StreamSettings

    source = project.sources[stream.split("/", 1)[0]]
    directory = store.path.parent if store.is_sqlite else project.directory / "var"
    return EngineFeed(StreamSettings(source.url, slot_of(source, stream), columns, catalogue), directory)


def require_engine() -> None:
    """OutsideError when the embedded engine is not installed: no restart would mend that."""
    from cdc.jvm import require_installed

    require_installed()


def stored_entities(project: Project, store: Store) -> dict[str, Entity]:
    """Entities as the stored documents were made; those whose snapshot is due are left out."""
    entities: dict[str, Entity] = {}
    for stream in stream_names(project):
        state = streams.load_stream(store, stream)
        if state is not None:
            for config in entities_of(project, stream):
                try:
                    entities[config.name] = compile_entity(config, state.catalogue)
                except InputError:  # a new snapshot is due for what was changed to a column that came since
                    if state.entities.get(config.name) == definition(config):
                        raise
    return entities


def stream_names(project: Project) -> list[str]:
    """ "source/stream", of every stream that has entities."""
    from hub.capture.role import stream_of

    return sorted({stream_of(project, entity) for entity in project.entities.values() if not entity.derived})


def compile_subscription(config: SubscriptionConfig, entities: Mapping[str, Entity]) -> Subscription:
    entity = entities.get(config.entity)
    return Subscription.compile(config, entity.shape if entity else Shape({}))


def connector_kinds() -> Kinds:
    """The connectors, by name."""
    import connectors

    return kinds_of_package(connectors, importlib.import_module)


def build_dispatcher(project: Project, store: Store) -> Dispatcher:
    """ProjectError when a destination's settings are not what its connector takes."""
    kinds = connector_kinds()
    entities = stored_entities(project, store)
    subscriptions = {name: compile_subscription(c, entities) for name, c in project.subscriptions.items()}
    openers = {}
    for name, destination in project.destinations.items():
        kind = kinds(destination.connector)
        openers[name] = partial(kind.open, read_settings(kind, destination), destination.limits)
    return Dispatcher(store, project, subscriptions, openers)


def connect_source(source: Source, **settings: Any) -> psycopg.Connection[Any]:
    """`settings`: libpq's, in the place of the URL's."""
    from cdc import source as sources

    return sources.connect(source.url, **settings)


def log_end(project: Project, stream: str, **settings: Any) -> LogEnd:
    """Where the log of a stream's source is, and how its slot stands. `settings` as of `connect_source`."""
    source = project.sources[stream.split("/", 1)[0]]
    return ask_log_end(lambda: connect_source(source, **settings), slot_of(source, stream))


def _stream_columns(project: Project, stream: str, catalogue: Catalogue) -> Mapping[str, Sequence[str]]:
    return captured_columns([compile_entity(config, catalogue) for config in entities_of(project, stream)])


def source_sql(project: Project, stream: str, catalogue: Catalogue) -> str:
    """The SQL that a DBA runs once for one stream."""
    from cdc import source as sources

    source = project.sources[stream.split("/", 1)[0]]
    return sources.source_sql(
        _stream_columns(project, stream, catalogue), catalogue, slot_of(source, stream), source.url
    )


def diagnose(project: Project, stream: str, position: int | None) -> list[tuple[str, str, bool]]:
    """What there is to say of a stream's source: (sentence, remedy, whether it keeps the stream from running).

    `position`: the store's; None when the stream has no snapshot yet. OutsideError when the source is out of reach.
    """
    from cdc import source as sources
    from cdc.settings import StreamSettings

    source = project.sources[stream.split("/", 1)[0]]
    catalogue = read_catalogue(source)
    columns = _stream_columns(project, stream, catalogue)
    settings = StreamSettings(source.url, slot_of(source, stream), columns, catalogue)
    with sources.connect(source.url) as connection:
        found = sources.findings(
            connection, settings, snapshot=position is None, position=position or 0, starting=False
        )
    return [(each.what, each.remedy, each.fatal) for each in found]
