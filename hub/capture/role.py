"""The capture role: what a stream begins with, and the loop that takes what arrives and works off what is pending."""

import gc
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec

from hub.capture.capture import Capture
from hub.catalogue import Catalogue
from hub.changes import NO_CURSOR, Batch, Feed, FeedPlan, Missed, Progress, lsn_text
from hub.doorbell import Doorbell
from hub.entities import Entity, captured_columns, compile_entity
from hub.errors import InputError, OutsideError
from hub.project import EntityConfig, Project
from hub.project.streams import entities_of, stream_of
from hub.store import streams
from hub.store.database import Store
from hub.store.streams import RESNAPSHOT, SNAPSHOT, STREAMING, StreamState
from hub.subscriptions import Subscription

log = logging.getLogger(__name__)

PATIENCE = 0.5  # seconds that the loop waits for arrivals before it looks around
TROUBLE_SECONDS = 5.0  # that a feed may be in trouble while somebody waits for the stream to catch up


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


@dataclass(frozen=True, slots=True)
class Start:
    """How a stream begins, decided but not begun."""

    state: StreamState | None  # as stored; None: the store does not know the stream
    catalogue: Catalogue
    entities: Sequence[Entity]
    plan: FeedPlan
    missed: str  # why a new snapshot is to be compared; "" for a first one, and where the stream goes on
    come: Collection[str]  # entities that have been in another stream: a snapshot is due for them


def decide(store: Store, project: Project, stream: str, outside: Outside) -> Start:
    """Whether to go on or to take a snapshot. Nothing is changed, in the store or outside.

    InputError when an entity is not what the stored documents were made with, or does not fit the source.
    OutsideError when the source cannot be followed.
    """
    configs = entities_of(project, stream)
    known = streams.load_streams(store)
    state = next((one for one in known if one.name == stream), None)
    come = _come(known, stream, configs)
    missed = ""
    keeps = state is not None and outside.keeps_snapshots and state.cursor != NO_CURSOR
    if state is not None and (state.state == STREAMING or (state.state == SNAPSHOT and keeps)):
        _require_same(state, _definitions(config for config in configs if config.name not in come))
        missed = outside.missed(state.position, state.cursor) if state.state == STREAMING else ""
        if not missed and not come:
            return _going_on(state, configs)
    catalogue = outside.read_catalogue()
    entities = [compile_entity(config, catalogue) for config in configs]
    if state is None:
        outside.refuse_foreign_slot()
    plan = FeedPlan(True, columns=captured_columns(entities))
    # Before the snapshot is noted as begun: a slot that appears later would be taken for the stream's own.
    outside.require_ready(catalogue, plan)
    return Start(state, catalogue, entities, plan, missed, come)


def _come(known: Iterable[StreamState], stream: str, configs: Iterable[EntityConfig]) -> set[str]:
    """The entities that this stream does not hold, and that have been in another one, or in this one before."""
    ever = {name for state in known for name in state.entities}
    held = {name for state in known if state.name == stream for name in state.holds()}
    return {config.name for config in configs if config.name in ever - held}


def _going_on(state: StreamState, configs: Iterable[EntityConfig]) -> Start:
    entities = [compile_entity(config, state.catalogue) for config in configs]
    plan = FeedPlan(False, state.position, captured_columns(entities), state.cursor)
    return Start(state, state.catalogue, entities, plan, "", ())


def begin(
    store: Store, project: Project, stream: str, outside: Outside
) -> tuple[StreamState, Sequence[Entity], FeedPlan]:
    """Begin as decided, and say how. Errors as of `decide`."""
    settle_moves(store, project, stream)
    start = decide(store, project, stream, outside)
    if start.state is not None and not start.plan.snapshot:
        log.info("stream goes on", extra={"stream": stream, "after": lsn_text(start.plan.position)})
        return streams.take_over(store, start.state), start.entities, start.plan
    if start.missed:
        log.warning("changes were missed, a new snapshot is compared", extra={"stream": stream, "reason": start.missed})
    definitions = _definitions(entities_of(project, stream))
    if start.come:
        log.warning("entities have come from another stream", extra={"stream": stream, "entities": sorted(start.come)})
    # Before anything is changed outside: what the snapshot shows must not be older than what others have made.
    if start.state is not None:
        streams.take_over(store, start.state)
    streams.take_entities(store, stream, definitions.keys())
    cursor = outside.renew(first=start.state is None and not start.come)
    state = streams.begin_snapshot(store, stream, start.catalogue, definitions, cursor)
    log.info("snapshot begins", extra={"stream": stream, "run": state.run, "tables": len(start.plan.columns)})
    return state, start.entities, FeedPlan(cursor == NO_CURSOR, 0, start.plan.columns, cursor)


def _definitions(configs: Iterable[EntityConfig]) -> dict[str, object]:
    return {config.name: definition(config) for config in configs}


def _require_same(state: StreamState, definitions: Mapping[str, Any]) -> None:
    held = state.holds()
    changed = sorted(name for name in {*held, *definitions} if held.get(name) != definitions.get(name))
    if changed:
        one = len(changed) == 1
        raise InputError(
            f"{'Entity' if one else 'Entities'} {', '.join(changed)} {'is' if one else 'are'} not what the stored "
            "documents were made with.",
            "Put it back as it was, or run `hub source resnapshot`, which compares all documents anew.",
        )


def settle_moves(store: Store, project: Project, stream: str) -> None:
    """Have the stream make no more versions of what the project has in another one.

    InputError when the project is older than the last move. TakenOver as of `take_over`.
    """
    known = streams.load_streams(store)
    wanted = {config.name: stream_of(project, config) for config in project.entities.values() if not config.derived}
    _refuse_old_project(known, wanted, stream)
    state = next((one for one in known if one.name == stream), None)
    moved = {name for name in (state.holds() if state else ()) if wanted.get(name, stream) != stream}
    if state and moved:
        streams.give_up_entities(store, state, moved)
        log.info("entities have moved to another stream", extra={"stream": stream, "entities": sorted(moved)})


def _refuse_old_project(known: Iterable[StreamState], wanted: Mapping[str, str], stream: str) -> None:
    """An entity comes back to a stream that has given it up only where a new snapshot of that was asked for.

    Otherwise a machine whose project was forgotten would take back what has moved.
    """
    by_name = {state.name: state for state in known}
    owners = {name: state.name for state in known for name in state.holds()}
    for entity, to in wanted.items():
        owner = owners.get(entity, to)
        if owner == to or stream not in (owner, to) or to not in by_name:
            continue
        if entity in by_name[to].entities and by_name[to].state != RESNAPSHOT:
            raise InputError(
                f"The entity {entity} has moved from {to} to {owner}, and this project has it in {to}.",
                f"Bring this machine's hub.yaml up to date; to have it come back, run `hub source resnapshot {to}`.",
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
        self._trouble = ""  # the feed's, as it was noted last
        self._troubled_since = 0.0
        self.capture = Capture(store, state, entities, subscriptions, fan_out)

    def run(
        self,
        feed: Feed,
        stopped: Callable[[], bool],
        goal: int | None = None,
        patience: float = TROUBLE_SECONDS,
    ) -> None:
        """Until `stopped`, or all up to `goal` is done with. Missed when a snapshot was asked for.

        OutsideError when the feed is in trouble for longer than `patience`, in seconds, and there is a goal.
        """
        _calm_collector()
        self._store.ring("dispatch")  # who had the stream may have been killed between a commit and its ring
        busy = True
        while not stopped():
            if self._bell.wait(0):
                self._require_streaming()
                self.capture.look_again()
            batch = feed.take(0.0 if busy else PATIENCE)
            if batch is not None:
                self._apply(batch)
            busy = self.capture.work(idle=batch is None or all(type(one) is Progress for one in batch.arrivals))
            trouble = feed.trouble()
            self._note(trouble)
            if goal is not None and self.capture.position >= goal and not busy:
                return
            if goal is not None and trouble and time.monotonic() - self._troubled_since > patience:
                raise trouble

    def _note(self, trouble: OutsideError | None) -> None:
        """Say, once, that nothing can arrive, and why; and that it does again."""
        said = str(trouble or "")
        if said == self._trouble:
            return
        if not self._trouble:
            self._troubled_since = time.monotonic()
        self._trouble = said
        streams.note_problem(self._store, self._stream, said)
        if said:
            log.warning("stream stands still", extra={"stream": self._stream, "reason": said})
        else:
            log.info("stream goes on by itself", extra={"stream": self._stream})

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
