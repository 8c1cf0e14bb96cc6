"""Carrying out a replay or a backfill: page by page from the journal to sends, piece by piece into the queue."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from hub.documents import Event, Version
from hub.operate.replay import DocumentReplay, Filters, Step, plan_backfill, plan_leave, renew
from hub.store.pieces import Pieces
from hub.store.replays import PAST, Cursor, Replay, Replays, Send
from hub.subscriptions import Subscription

DOCUMENTS = 100  # planned at one time
TOGETHER = 1000  # deliveries of one document in one piece


@dataclass(slots=True)
class Plan:
    """What a replay would put in the queue."""

    documents: int = 0
    versions: int = 0  # of documents: one that goes to two subscriptions counts once
    deliveries: Counter[str] = field(default_factory=Counter)  # by subscription
    deleted: int = 0  # deliveries that delete
    undecided: int = 0  # those that are parked at once, because `where` or `when` fails on them

    @property
    def total(self) -> int:
        return self.deliveries.total()

    def add(self, sends: Sequence[Send]) -> None:
        self.documents += len({send.key for send in sends})
        self.versions += len({(send.key, send.step.version) for send in sends})
        self.deliveries.update(send.subscription for send in sends)
        self.deleted += sum(1 for send in sends if send.step.event is Event.DELETED)
        self.undecided += sum(1 for send in sends if send.step.failure)


@dataclass(frozen=True, slots=True)
class Planned:
    """The steps of one document to one subscription, in order."""

    key: str
    newest: int  # the document's newest version
    subscription: str
    steps: Sequence[Step]


class Replayer:
    def __init__(self, replays: Replays, subscriptions: Mapping[str, Subscription]) -> None:
        """`subscriptions`: all of the project, by name."""
        self._replays = replays
        self._subscriptions = subscriptions

    def plan(self, kind: str, filters: Filters) -> Plan:
        plan = Plan()
        for sends in self.pages(kind, filters, Cursor(), 0, lambda: DOCUMENTS):
            plan.add(sends)
        return plan

    def run(self, begun: Replay, rate: float | None, progress: Callable[[int], object]) -> Replay:
        """Put its deliveries in the queue, from its cursor on; `progress` is told of each piece's.

        `rate`: deliveries a second. FaultError when another process carries it out too.
        """
        written = _Written(self._replays, begun, rate, progress)
        while not self._written_through(begun, written):
            pass
        self._replays.finish(begun.id)
        return self._replays.get(begun.id)

    def _written_through(self, begun: Replay, written: "_Written") -> bool:
        """False when a document got a newer version meanwhile: what is left has to be planned again."""
        pages = self.pages(begun.kind, begun.filters, written.cursor, begun.id, lambda: written.documents)
        return all(written.write(sends) for sends in pages)

    def pages(
        self, kind: str, filters: Filters, cursor: Cursor, replay_id: int, documents: Callable[[], int]
    ) -> Iterator[list[Send]]:
        """What is to be sent past the cursor, a page of one entity's documents at a time."""
        for entity, subscriptions in self._by_entity(filters):
            if entity < cursor.entity:
                continue
            at: Cursor | None = cursor if entity == cursor.entity else Cursor()
            while at is not None:
                if kind == "backfill":
                    sends, after = self._backfill_page(entity, subscriptions, at, documents(), replay_id)
                else:
                    sends, after = self._replay_page(entity, subscriptions, filters, at, documents(), replay_id)
                if sends:
                    yield sends
                at = after

    def _by_entity(self, filters: Filters) -> list[tuple[str, list[Subscription]]]:
        chosen = sorted(
            (
                one
                for one in self._subscriptions.values()
                if (not filters.subscriptions or one.name in filters.subscriptions)
                and (not filters.entity or one.config.entity == filters.entity)
            ),
            key=lambda one: (one.config.entity, one.name),
        )
        return [(entity, list(group)) for entity, group in groupby(chosen, key=lambda one: one.config.entity)]

    def _replay_page(
        self,
        entity: str,
        subscriptions: Sequence[Subscription],
        filters: Filters,
        cursor: Cursor,
        limit: int,
        replay_id: int,
    ) -> tuple[list[Send], Cursor | None]:
        planned: list[Planned] = []
        keys: list[str] = []
        for key, versions in self._replays.chosen(entity, filters, cursor, limit, replay_id):
            keys.append(key)
            plans = [(one.name, self._document(one, entity, key, filters, replay_id)) for one in subscriptions]
            newest = _feed(plans, versions)
            planned += [Planned(key, newest, name, plan.steps()) for name, plan in plans]
        return self._sends(entity, planned, cursor, replay_id), _next(entity, keys, limit)

    def _document(
        self, subscription: Subscription, entity: str, key: str, filters: Filters, replay_id: int
    ) -> DocumentReplay:
        if not filters.failed:
            return DocumentReplay(subscription, filters.choose)
        parked = self._replays.failed(subscription.name, entity, key, replay_id)
        return DocumentReplay(subscription, lambda one: one.version in parked and filters.choose(one), parked)

    def _backfill_page(
        self, entity: str, subscriptions: Sequence[Subscription], cursor: Cursor, limit: int, replay_id: int
    ) -> tuple[list[Send], Cursor | None]:
        found = self._replays.newest(entity, cursor, limit)
        planned: list[Planned] = []
        for one in subscriptions:
            steps = {version.key: plan_backfill(one, version) for version in found}
            held = self._replays.held(one.name, entity, [key for key, step in steps.items() if step is None])
            for version in found:
                step = steps[version.key] or plan_leave(one, version, held.get(version.key))
                planned += [Planned(version.key, version.version, one.name, [step])] if step else []
        planned.sort(key=lambda one: (one.key, one.subscription))
        return self._sends(entity, planned, cursor, replay_id), _next(entity, [version.key for version in found], limit)

    def _sends(self, entity: str, planned: Sequence[Planned], cursor: Cursor, replay_id: int) -> list[Send]:
        """Without those of the cursor's own document that have been written."""
        planned = [one for one in planned if one.steps]
        if not planned:
            return []
        names, keys = {one.subscription for one in planned}, list(dict.fromkeys(one.key for one in planned))
        first = min(one.steps[0].version for one in planned)
        past = self._replays.past(entity, names, keys, first, replay_id)
        done = (cursor.subscription, cursor.version)
        return [
            Send(entity, one.key, one.subscription, step, one.newest)
            for one in planned
            for step in renew(one.steps, past[one.subscription, one.key])
            if one.key != cursor.key or (one.subscription, step.version) > done
        ]


def _feed(plans: Sequence[tuple[str, DocumentReplay]], versions: Iterator[Version]) -> int:
    """Give each plan all versions; the newest one's number."""
    newest = 0
    for version in versions:
        newest = version.version
        for _, plan in plans:
            plan.add(version)
    return newest


def _next(entity: str, keys: Sequence[str], limit: int) -> Cursor | None:
    return Cursor(entity, keys[-1], PAST) if len(keys) == limit else None


class _Written:
    """How far a replay has been written, and the pace of it."""

    def __init__(self, replays: Replays, begun: Replay, rate: float | None, progress: Callable[[int], object]) -> None:
        self.cursor = begun.cursor
        self.documents = DOCUMENTS  # to plan at one time: one after a conflict, so that a busy document gets through
        self._replays = replays
        self._begun = begun
        self._rate = rate
        self._progress = progress
        self._pieces = Pieces()
        self._began = time.monotonic()
        self._count = 0

    def write(self, sends: Sequence[Send]) -> bool:
        """False when not all of them could be."""
        while sends:
            piece = sends[: self._size(sends)]
            written = self._replays.write(self._begun, self.cursor, piece, self._pieces)
            if written:
                self.cursor = piece[written - 1].cursor
                self._count += written
                self._progress(written)
            if written < len(piece):
                self.documents = 1
                return False
            self.documents = min(self.documents * 2, DOCUMENTS)
            sends = sends[len(piece) :]
            self._keep_pace()
        return True

    def _size(self, sends: Sequence[Send]) -> int:
        """How many are written together: a document's are, so that its receiver is not left with an older one."""
        size = self._pieces.size if self._rate is None else max(1, min(self._pieces.size, int(self._rate / 10)))
        key = sends[min(size, len(sends)) - 1].key
        last = max(place for place, send in enumerate(sends) if send.key == key)
        return min(last + 1, max(size, TOGETHER))

    def _keep_pace(self) -> None:
        if self._rate is not None:
            time.sleep(max(0.0, self._began + self._count / self._rate - time.monotonic()))
