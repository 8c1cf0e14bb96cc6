"""What becomes of deliveries that wait behind each other: with `mode: latest`, and within `delay`.

    was in the set   is in it     sent of both
    no               yes          created
    yes              yes          updated
    yes              no           deleted
    no               no           nothing, while no attempt has begun; else deleted

"Was" is before the oldest merged version, "is" after the newest. The newest one stays, the others go.

Merging is done by dispatch as it reads, not by capture as it writes. Whether an attempt has begun is known by the one
worker that has the document's slice, and by nobody else before the outcome is stored; and capture would pay a look-up
in the queue for every delivery.
"""

import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from hub.delivery import Delivery
from hub.dispatch.lanes import LaneKey
from hub.dispatch.outcomes import SECOND
from hub.documents import Cause, Event
from hub.project import DeliveryPolicy

MOST_QUIET = 10  # `delay` restarts with each change, up to so many times its length

NONE: Mapping[LaneKey, Sequence[int]] = {}

_EVENTS, _CAUSES = tuple(Event), tuple(Cause)
_CREATED, _UPDATED, _DELETED = (_EVENTS.index(event) for event in (Event.CREATED, Event.UPDATED, Event.DELETED))
_ROW, _FILTER = _CAUSES.index(Cause.ROW), _CAUSES.index(Cause.FILTER)


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A pending delivery, with what a body is rendered from."""

    delivery: Delivery
    before_version: int  # the last version that was in the set; 0: none
    cause: int  # the place in Cause
    reason: str | None
    begun: bool  # an attempt of it may have begun
    fixed: bool = False  # on its way, or its outcome is not stored yet

    @property
    def document(self) -> LaneKey:
        return self.delivery.entity_id, self.delivery.key


def merges(policy: DeliveryPolicy) -> bool:
    return policy.mode == "latest" or policy.delay > 0


def due_at(one: Delivery, policy: DeliveryPolicy) -> int:
    """When it may go, microseconds since 1970: after the quiet time, or when its retry is due."""
    return max(one.due_at, one.created_at + round(policy.delay * SECOND)) if policy.delay else one.due_at


def fold(waiting: Iterable[Waiting], policy: DeliveryPolicy) -> list[Waiting]:
    """What is left to send of one document's pending deliveries, oldest first."""
    left: list[Waiting] = []
    for newer in waiting:
        if left and _belong_together(left[-1], newer, policy):
            one = _merge(left.pop(), newer, policy)
            if one is not None:
                left.append(one)
        else:
            left.append(newer)
    return left


def _belong_together(older: Waiting, newer: Waiting, policy: DeliveryPolicy) -> bool:
    """What a replay or a receiver asked for is sent as it is; so is what was due, where every version is wanted."""
    if not all(not one.fixed and one.delivery.replay_id is None and not one.delivery.turn for one in (older, newer)):
        return False
    if policy.mode == "latest":
        return True
    waits_for_retry = older.delivery.attempts > 0 or bool(older.reason)
    return not waits_for_retry and newer.delivery.created_at < due_at(older.delivery, policy)


def _merge(older: Waiting, newer: Waiting, policy: DeliveryPolicy) -> Waiting | None:
    was, now = older.delivery.event != _CREATED, newer.delivery.event != _DELETED
    begun = older.begun or newer.begun
    if not (was or now or begun):
        return None
    return Waiting(
        delivery=msgspec.structs.replace(
            newer.delivery,
            event=(_UPDATED if was else _CREATED) if now else _DELETED,
            attempts=max(older.delivery.attempts, newer.delivery.attempts),
            due_at=_merged_due_at(older, newer, policy),
            created_at=min(older.delivery.created_at, newer.delivery.created_at),  # so long has the receiver waited
        ),
        before_version=older.before_version if was or now else newer.before_version,
        cause=_merged_cause(older, newer, was, now),
        reason=newer.reason or older.reason,
        begun=begun,
    )


def _merged_due_at(older: Waiting, newer: Waiting, policy: DeliveryPolicy) -> int:
    """A change waits no longer than a retry that is due, nor less: it would get the same answer."""
    quiet = 0
    if policy.delay:
        most = older.delivery.created_at + round(MOST_QUIET * policy.delay * SECOND)
        quiet = min(due_at(newer.delivery, policy), most)
    return max(quiet, *(one.delivery.due_at if one.begun else 0 for one in (older, newer)))


def _merged_cause(older: Waiting, newer: Waiting, was: bool, now: bool) -> int:
    if not was and now:
        return older.cause
    return _ROW if was and now and newer.cause == _FILTER else newer.cause


def _pieces(waiting: Iterable[Waiting], parked: Mapping[LaneKey, Sequence[int]]) -> Iterator[list[Waiting]]:
    """Cut where one of the document is parked."""
    for _, piece in groupby(waiting, lambda one: bisect(parked.get(one.document, ()), one.delivery.seq)):
        yield list(piece)


def _is_held(one: Waiting, parked: Mapping[LaneKey, int]) -> bool:
    return parked.get(one.document, math.inf) < one.delivery.seq


class Merged(msgspec.Struct, frozen=True):
    """What is left of some documents' pending deliveries."""

    waiting: list[Waiting]  # in order for each document; without those that are fixed or held
    changed: list[Waiting]  # those that are left and differ from what they were
    gone: list[int]  # seqs of the others: nothing is sent of them
    parked: Mapping[LaneKey, int]  # by document, the seq of the parked one that holds what comes after it


def merge_documents(
    documents: Iterable[Iterable[Waiting]], policy: DeliveryPolicy, parked: Mapping[LaneKey, Sequence[int]] = NONE
) -> Merged:
    """`documents`: all pending deliveries of each, oldest first; none are merged across one of those `parked`."""
    merged = Merged([], [], [], {key: seqs[0] for key, seqs in parked.items()})
    for document in documents:
        before = {one.delivery.seq: one for one in document}
        pieces = [fold(piece, policy) for piece in _pieces(before.values(), parked)]
        after = {one.delivery.seq: one for piece in pieces for one in piece}
        merged.waiting.extend(one for one in after.values() if not one.fixed and not _is_held(one, merged.parked))
        merged.changed.extend(one for seq, one in after.items() if one is not before[seq])
        merged.gone.extend(before.keys() - after.keys())
    return merged
