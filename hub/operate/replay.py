"""Which deliveries a replay makes: from a document's kept versions to what one subscription gets of them.

    versions     1    2    3    4    5      chosen are 2 and 3, by the filters
    planned      c    u    .    u    d      what the subscription got of each when it was new: . is nothing
    replayed          2              5      what is chosen and was sent, then what the receiver ends with

A receiver never ends older than it was: the last step is the newest version while that is in the set, else the
`deleted` of the version that left it. With `mode: latest` there is the last step alone. What is parked by a filter of
earlier days, and is nothing by the one of today, comes to what a backfill makes of the document.

A backfill makes one step of each document, by what is so now:

    in the set   the receiver may have it   step
    yes          .                          created
    no           yes                        deleted: the set is not what it was, or the document left it unnoticed
    no           no                         nothing
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from hub.documents import Cause, Event, Version, decode
from hub.errors import InputError
from hub.subscriptions import DocumentChange, Planned, Subscription
from hub.subscriptions.templates import TemplateFailure


class Filters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an operator chose; what is left out chooses everything."""

    subscriptions: tuple[str, ...] = ()
    entity: str = ""
    keys: tuple[str, ...] = ()
    since: int | None = None  # commit time, microseconds since 1970, included
    until: int | None = None  # excluded
    from_lsn: int | None = None  # of the commit, included
    to_lsn: int | None = None  # included
    transaction: int | None = None
    failed: bool = False  # only what is parked
    new_ids: bool = False

    def choose(self, version: Version) -> bool:
        """Whether a version fits, `failed` and `subscriptions` left aside."""
        return (
            (self.since is None or version.committed_at >= self.since)
            and (self.until is None or version.committed_at < self.until)
            and (self.from_lsn is None or version.lsn >= self.from_lsn)
            and (self.to_lsn is None or version.lsn <= self.to_lsn)
            and (self.transaction is None or self.transaction in (version.transaction, *version.merged))
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One delivery that a replay makes."""

    version: int
    before_version: int  # the last version that was in the set; 0: none, or no longer kept
    event: Event
    failure: str = ""  # why it can't be decided: it is parked with this reason
    renewed: bool = False  # with a new id
    settles: tuple[int, ...] = ()  # parked versions of which nothing is sent but this


@dataclass(frozen=True, slots=True)
class Earlier:
    """What was sent last of a version."""

    deletes: bool  # it was a `deleted`
    taken: bool | None  # None: an attempt failed in a way that leaves it open, or is on its way


@dataclass(slots=True)
class Past:
    """What a receiver was sent of a document, as far as it is known."""

    sent: dict[int, Earlier] = field(default_factory=dict)  # by version
    certain: int | None = None  # the version that it has; 0: that is open; None: nothing was ever attempted


class DocumentReplay:
    """One document to one subscription: takes its versions one by one, so that they need not be in memory together.

    They begin with the one before the first chosen, where it is kept, and go on to the newest.
    """

    def __init__(
        self, subscription: Subscription, chosen: Callable[[Version], bool], parked: Mapping[int, int] | None = None
    ) -> None:
        """`parked`: where only what is parked is chosen, the versions that are; each with the last that was in the set.

        Those are to be settled, also if the filter of today says nothing of one.
        """
        self._subscription = subscription
        self._chosen = chosen
        self._parked = parked or {}
        self._unsettled: list[int] = []  # parked ones that were chosen, of which nothing is sent so far
        self._steps: list[Step] = []
        self._closing: Step | None = None  # the last that was sent after the last chosen one
        self._newest: Version | None = None

    def add(self, version: Version) -> None:
        step = _step(version, plan_version(self._subscription, self._newest, version))
        self._newest = version
        chosen = self._chosen(version)
        if chosen and version.version in self._parked:
            self._unsettled.append(version.version)
        if step is None:
            return
        if chosen:
            self._steps.append(step)
            self._closing = None
        else:
            self._closing = step

    def steps(self) -> list[Step]:
        """Oldest first; [] when nothing that was chosen was for this subscription."""
        if self._newest is None:
            return []
        steps = list(self._steps)
        if steps and self._closing is not None:
            steps.append(_newest_in_set(self._subscription, self._newest, self._closing))
        if self._unsettled and self._unsettled[-1] > (steps[-1].version if steps else 0):
            last = plan_backfill(self._subscription, self._newest)
            last = last or plan_leave(self._subscription, self._newest, self._parked[self._unsettled[-1]])
            steps += [last] if last else []
        if self._subscription.config.delivery.mode == "latest":
            steps = steps[-1:]
        sent = {step.version for step in steps}
        settled = tuple(version for version in self._unsettled if version not in sent)
        return [*steps[:-1], replace(steps[-1], settles=settled)] if steps else []


def plan_version(subscription: Subscription, previous: Version | None, version: Version) -> Planned | None:
    """What a subscription gets of a version; `previous` is the kept one before it, if any."""
    before = previous if previous is not None and previous.version == version.version - 1 else None
    if before is None and version.event is not Event.CREATED:
        return _plan_without_before(subscription, version)
    change = DocumentChange(
        shape=subscription.shape,
        entity=version.entity,
        key=version.key,
        version=version.version,
        before_version=before.version if before is not None else 0,
        before=before.body if before is not None else None,
        after=version.body,
        root_row=version.event is not Event.UPDATED,
    )
    return subscription.plan(change, Cause.REPLAY)


def _plan_without_before(subscription: Subscription, version: Version) -> Planned | None:
    """The version before is no longer kept: what is in the set now counts as having been in it."""
    if version.event not in subscription.sent:
        return None
    planned = Planned(version.event, Cause.REPLAY, 0)
    if subscription.everything or version.body is None:
        return planned if subscription.everything else None
    try:
        return planned if subscription.selects(decode(version.body)) else None
    except TemplateFailure as failure:
        return msgspec.structs.replace(planned, failure=f"where: {failure}")


def _step(version: Version, planned: Planned | None) -> Step | None:
    if planned is None:
        return None
    return Step(version.version, planned.before_version, planned.event, planned.failure)


def _newest_in_set(subscription: Subscription, newest: Version, closing: Step) -> Step:
    """`closing` is the last one that was sent. A newest version that was not, but is in the set, is better."""
    if closing.version == newest.version or newest.body is None or not _selects(subscription, newest.body):
        return closing
    return Step(newest.version, newest.version - 1, Event.UPDATED)


def _selects(subscription: Subscription, body: bytes) -> bool:
    try:
        return subscription.everything or subscription.selects(decode(body))
    except TemplateFailure:
        return False


def plan_backfill(subscription: Subscription, current: Version) -> Step | None:
    """The current document as a new one; None when it is outside the set."""
    if current.body is None:
        return None
    try:
        inside = subscription.everything or subscription.selects(decode(current.body))
    except TemplateFailure as failure:
        return Step(current.version, 0, Event.CREATED, f"where: {failure}")
    return Step(current.version, 0, Event.CREATED) if inside else None


def plan_leave(subscription: Subscription, current: Version, held: int | None) -> Step | None:
    """The `deleted` of a document outside the set. `held`: the version that the receiver may have, if any."""
    if held is None or Event.DELETED not in subscription.sent:
        return None
    return Step(current.version, held, Event.DELETED)


def renew(steps: Sequence[Step], past: Past) -> list[Step]:
    """One document's steps to one subscription, in order, with those marked that need a new id.

    A receiver drops what comes under an id that it has taken. That is well for all but the last, and for the last one
    too while the receiver is known to have that or a newer one, and no step before it may change this. And an id never
    says both that the document is there and that it is gone. `past`: this replay's own deliveries aside.
    """
    renewed, moved = [], False
    for step in steps:
        before = past.sent.get(step.version)
        turned = before is not None and before.deletes is not (step.event is Event.DELETED)
        if step is steps[-1] and before is not None:
            stale = past.certain is not None and past.certain < step.version
            turned = turned or (moved and before.taken is not False) or (stale and before.taken is True)
        moved = moved or turned or before is None or not before.taken
        renewed.append(replace(step, renewed=turned))
    return renewed


def refuse_empty(filters: Filters) -> None:
    """Raises InputError when nothing was chosen: everything to everyone is never meant by silence."""
    if filters == Filters(new_ids=filters.new_ids):
        raise InputError(
            "A replay needs to be told what to send.",
            "Give at least one of --subscription, --entity, --key, --since, --until, --from-lsn, --to-lsn, "
            "--transaction, --failed.",
        )
