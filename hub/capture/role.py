"""The capture role: what a stream begins with, and the loop that takes what arrives and works off what is pending."""

import gc
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec

from hub.capture.capture import Capture
from hub.catalogue import Catalogue
from hub.changes import NO_CURSOR, Batch, Feed, FeedPlan, Missed, Progress, lsn_text
from hub.doorbell import Doorbell
from hub.entities import Entity, captured_columns, compile_entity
from hub.errors import InputError
from hub.project import EntityConfig, Project
from hub.store import streams
from hub.store.database import Store
from hub.store.streams import RESNAPSHOT, SNAPSHOT, STREAMING, StreamState
from hub.subscriptions import Subscription

log = logging.getLogger(__name__)

PATIENCE = 0.5  # seconds that the loop waits for arrivals before it looks around


class Outside(Protocol):
    """What capture asks of one stream's source besides its changes."""

    def read_catalogue(self) -> Catalogue:
        """Of the tables that the stream's entities use. ProjectError when they do not fit the project."""
        ...

    def refuse_foreign_slot(self) -> None:
        """OutsideError when a slot of this name exists: a first snapshot must not drop somebody else's."""
        ...

    def missed(self, position: int, cursor: int) -> str:
        """Why what came after the store's `position` and `cursor` is not to be had any more; "" when it is.

        OutsideError when it is to be had, but not in this way: the stream was followed in the other one so far.
        """
        ...

    def require_ready(self, catalogue: Catalogue, plan: FeedPlan) -> None:
        """OutsideError, with all that has to be mended, when the stream could not be followed as planned."""
        ...

    @property
    def keeps_snapshots(self) -> bool:
        """A snapshot's records are still there after a restart, to be read on from where the store stands."""
        ...

    def renew(self, *, first: bool) -> int:
        """Have the source take a new snapshot: where its records begin. NO_CURSOR: the feed does that when it starts.

        `first`: the stream has never been followed; a snapshot that is there already will do.
        """
        ...

    def mark(self) -> int:
        """Write a mark into the log, which arrives as progress; its LSN."""
        ...


def definition(config: EntityConfig) -> dict[str, Any]:
    """What an entity's documents depend on, as plain data to store and compare."""
    plain = asdict(config)
    _forget_places(plain)
    return dict(msgspec.json.decode(msgspec.json.encode(plain)))


def _forget_places(plain: Any) -> None:
    if isinstance(plain, dict):
        plain.pop("place", None)
        plain.pop("places", None)
        for value in plain.values():
            _forget_places(value)
    elif isinstance(plain, list | tuple):
        for value in plain:
            _forget_places(value)


def stream_of(project: Project, entity: EntityConfig) -> str:
    """ "source/stream": the one that names the entity, else the source's "main"."""
    streams = project.sources[entity.source].streams
    return f"{entity.source}/{next((name for name, held in streams.items() if entity.name in held), 'main')}"


def entities_of(project: Project, stream: str) -> list[EntityConfig]:
    return [e for e in project.entities.values() if not e.derived and stream_of(project, e) == stream]


@dataclass(frozen=True, slots=True)
class Start:
    """How a stream begins, decided but not begun."""

    state: StreamState | None  # as stored; None: the store does not know the stream
    catalogue: Catalogue
    entities: Sequence[Entity]
    plan: FeedPlan
    missed: str  # why a new snapshot is to be compared; "" for a first one, and where the stream goes on


def decide(store: Store, project: Project, stream: str, outside: Outside) -> Start:
    """Whether to go on or to take a snapshot. Nothing is changed, in the store or outside.

    InputError when an entity is not what the stored documents were made with, or does not fit the source.
    OutsideError when the source cannot be followed.
    """
    configs = entities_of(project, stream)
    state = streams.load_stream(store, stream)
    missed = ""
    if state is not None and state.state == STREAMING:
        _require_same(state, _definitions(configs))
        missed = outside.missed(state.position, state.cursor)
        if not missed:
            return _going_on(state, configs)
    if state is not None and state.state == SNAPSHOT and outside.keeps_snapshots and state.cursor != NO_CURSOR:
        _require_same(state, _definitions(configs))
        return _going_on(state, configs)
    catalogue = outside.read_catalogue()
    entities = [compile_entity(config, catalogue) for config in configs]
    if state is None:
        outside.refuse_foreign_slot()
    plan = FeedPlan(True, columns=captured_columns(entities))
    # Before the snapshot is noted as begun: a slot that appears later would be taken for the stream's own.
    outside.require_ready(catalogue, plan)
    return Start(state, catalogue, entities, plan, missed)


def _going_on(state: StreamState, configs: Iterable[EntityConfig]) -> Start:
    entities = [compile_entity(config, state.catalogue) for config in configs]
    plan = FeedPlan(False, state.position, captured_columns(entities), state.cursor)
    return Start(state, state.catalogue, entities, plan, "")


def begin(
    store: Store, project: Project, stream: str, outside: Outside
) -> tuple[StreamState, Sequence[Entity], FeedPlan]:
    """Begin as decided, and say how. Errors as of `decide`."""
    start = decide(store, project, stream, outside)
    if start.state is not None and not start.plan.snapshot:
        log.info("stream goes on", extra={"stream": stream, "after": lsn_text(start.plan.position)})
        return streams.take_over(store, start.state), start.entities, start.plan
    if start.missed:
        log.warning("changes were missed, a new snapshot is compared", extra={"stream": stream, "reason": start.missed})
    definitions = _definitions(entities_of(project, stream))
    if start.state is not None:
        streams.take_over(store, start.state)  # before anything is changed outside
    cursor = outside.renew(first=start.state is None)
    state = streams.begin_snapshot(store, stream, start.catalogue, definitions, cursor)
    log.info("snapshot begins", extra={"stream": stream, "run": state.run, "tables": len(start.plan.columns)})
    return state, start.entities, FeedPlan(cursor == NO_CURSOR, 0, start.plan.columns, cursor)


def _definitions(configs: Iterable[EntityConfig]) -> dict[str, object]:
    return {config.name: definition(config) for config in configs}


def _require_same(state: StreamState, definitions: Mapping[str, Any]) -> None:
    names = sorted({*state.entities, *definitions})
    changed = [name for name in names if state.entities.get(name) != definitions.get(name)]
    if changed:
        one = len(changed) == 1
        raise InputError(
            f"{'Entity' if one else 'Entities'} {', '.join(changed)} {'is' if one else 'are'} not what the stored "
            "documents were made with.",
            "Put it back as it was, or run `hub source resnapshot`, which compares all documents anew.",
        )


class Role:
    """The loop of one capture process."""

    def __init__(
        self,
        store: Store,
        state: StreamState,
        entities: Sequence[Entity],
        subscriptions: Sequence[Subscription],
        fan_out: int,
        bell: Doorbell,
    ) -> None:
        self._store = store
        self._stream = state.name
        self._bell = bell
        self.capture = Capture(store, state, entities, subscriptions, fan_out)

    def run(self, feed: Feed, stopped: Callable[[], bool], goal: int | None = None) -> None:
        """Until `stopped`, or all up to `goal` is done with. Missed when a snapshot was asked for."""
        _calm_collector()
        busy = True
        while not stopped():
            if self._bell.wait(0):
                self._require_streaming()
                self.capture.look_again()
            batch = feed.take(0.0 if busy else PATIENCE)
            if batch is not None:
                self._apply(batch)
            busy = self.capture.work(idle=batch is None or all(type(one) is Progress for one in batch.arrivals))
            if goal is not None and self.capture.position >= goal and not busy:
                return

    def _apply(self, batch: Batch) -> None:
        # What is not stored yet is let go with the next batch that is.
        if self.capture.apply(batch.arrivals, batch.cursor):
            batch.stored()

    def _require_streaming(self) -> None:
        state = streams.load_stream(self._store, self._stream)
        if state is not None and state.state == RESNAPSHOT:
            raise Missed("A new snapshot was asked for.", "The next start takes it.")


def _calm_collector() -> None:
    """Rows and documents have no cycles: looking for some among tens of thousands of them would be in vain."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
