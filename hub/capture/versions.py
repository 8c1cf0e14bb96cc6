"""From assembled documents to new versions and their deliveries, collected for one store transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from hub.changes import Commit
from hub.documents import Cause, Event, encode
from hub.entities import Entity
from hub.store.tables import CAUSES, EVENTS, PARKED, PENDING
from hub.subscriptions import DocumentChange, Subscription

_CREATED, _UPDATED, _DELETED = (EVENTS.index(event) for event in (Event.CREATED, Event.UPDATED, Event.DELETED))
_EVENT = {event: code for code, event in enumerate(EVENTS)}
_CAUSE = {cause: code for code, cause in enumerate(CAUSES)}


Head = tuple[int, bytes | None]  # version and body of a document's newest version

HEADS = 96 << 20  # bytes of them in memory


class HeadReader(Protocol):
    def heads(self, entity_id: int, keys: Collection[str]) -> Iterable[tuple[str, int, bytes | None]]:
        """(key, version, body) of the newest version of each document."""
        ...


class Published(NamedTuple):
    """One entity with what is made of its documents."""

    id: int
    entity: Entity
    subscriptions: Sequence[tuple[int, Subscription]]  # (id, subscription)


class Heads:
    """The newest versions that this process has made, as far as memory goes: nobody else makes any.

    Two generations: once the younger one has its half of the room, it becomes the older, whose place it takes.
    """

    def __init__(self, limit: int = HEADS) -> None:
        self._limit = limit
        self._size = 0  # bytes of the younger, about
        self._young: dict[str, dict[str, Head]] = {}  # by entity and key
        self._old: dict[str, dict[str, Head]] = {}

    def find(self, entity: str, keys: Iterable[str], found: dict[str, Head]) -> list[str]:
        """Add to `found` those that are known and not in it yet; the keys of the others."""
        young, old = self._young.get(entity, {}), self._old.get(entity, {})
        missing = []
        for key in keys:
            if key not in found:
                head = young.get(key) or old.get(key)
                if head is None:
                    missing.append(key)
                else:
                    found[key] = head
        return missing

    def keep(self, entity: str, heads: Mapping[str, Head]) -> None:
        self._young.setdefault(entity, {}).update(heads)
        self._size += sum(300 + len(body or b"") for _, body in heads.values())
        if self._size > self._limit // 2:
            self._young, self._old, self._size = {}, self._young, 0


class Versions:
    """What a group of transactions adds to the journal and to the deliveries."""

    def __init__(self, published: Mapping[str, Published], reader: HeadReader, known: Heads, made_at: int) -> None:
        self.documents: list[tuple[Any, ...]] = []  # rows as `hub.store.images.write_documents` takes them
        self.deliveries: list[tuple[Any, ...]] = []
        self._published = published
        self._reader = reader
        self._known = known
        self._made_at = made_at
        self._heads: dict[str, dict[str, Head]] = {name: {} for name in published}
        self._made: dict[str, dict[str, Head]] = {}  # those of them that are new

    def load(self, entity: str, keys: Iterable[str]) -> None:
        """Read the newest versions that are not known yet, in one statement."""
        heads = self._heads[entity]
        missing = self._known.find(entity, keys, heads)
        if not missing:
            return
        heads.update(dict.fromkeys(missing, (0, None)))
        for key, version, body in self._reader.heads(self._published[entity].id, missing):
            heads[key] = (version, body)

    def make(
        self,
        entity: str,
        key: str,
        tree: dict[str, Any] | None,
        commit: Commit,
        cause: Cause = Cause.ROW,
        merged: Sequence[int] = (),
    ) -> bool:
        """Add a version if the document is not what it was; `tree` None: it is no more. True if one was added."""
        heads = self._heads[entity]
        if key not in heads:
            self.load(entity, (key,))
        version, before = heads[key]
        after = None if tree is None else encode(tree)
        if after == before:
            return False
        heads[key] = self._made.setdefault(entity, {})[key] = (version + 1, after)
        published = self._published[entity]
        event = _CREATED if before is None else _DELETED if after is None else _UPDATED
        self.documents.append(
            (
                published.id,
                key,
                version + 1,
                event,
                _CAUSE[cause],
                commit.lsn,
                commit.transaction,
                commit.committed_at,
                self._made_at,
                after if after is None else bytearray(after),
                msgspec.json.encode(merged).decode() if merged else None,
            )
        )
        if published.subscriptions:
            change = DocumentChange(
                published.entity.shape, entity, key, version + 1, version if before is not None else 0,
                before, after, event != _UPDATED,
            )  # fmt: skip
            self._plan(published, change, cause)
        return True

    def newest(self, entity: str, key: str) -> int:
        """The number of a document's newest version, `make` included."""
        return self._heads[entity][key][0]

    def written(self) -> None:
        """They are in the store, or will be before anything that is read from now on matters."""
        for entity, made in self._made.items():
            self._known.keep(entity, made)

    def _plan(self, published: Published, change: DocumentChange, cause: Cause) -> None:
        for subscription_id, subscription in published.subscriptions:
            planned = subscription.plan(change, cause)
            if planned is None:
                continue
            self.deliveries.append(
                (
                    subscription_id,
                    published.id,
                    change.key,
                    change.version,
                    planned.before_version,
                    0,
                    _EVENT[planned.event],
                    _CAUSE[planned.cause],
                    PARKED if planned.failure else PENDING,
                    0,
                    0,
                    self._made_at,
                    planned.failure or None,
                )
            )
