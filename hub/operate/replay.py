"""Which deliveries a replay makes: from a document's kept versions to what one subscription gets of them.

    versions     1    2    3    4    5      chosen are 2 and 3, by the filters
    planned      c    u    .    u    d      what the subscription got of each when it was new: . is nothing
    replayed          2              5      what is chosen and was sent, then what the receiver ends with

A receiver never ends older than it was: the last step is the newest version while that is in the set, else the
`deleted` of the version that left it. With `mode: latest` there is the last step alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

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


class DocumentReplay:
    """One document to one subscription: takes its versions one by one, so that they need not be in memory together.

    They begin with the one before the first chosen, where it is kept, and go on to the newest.
    """

    def __init__(self, subscription: Subscription, chosen: Callable[[Version], bool]) -> None:
        self._subscription = subscription
        self._chosen = chosen
        self._steps: list[Step] = []
        self._closing: Step | None = None  # the last that was sent after the last chosen one
        self._newest: Version | None = None

    def add(self, version: Version) -> None:
        step = _step(version, plan_version(self._subscription, self._newest, version))
        self._newest = version
        if step is None:
            return
        if self._chosen(version):
            self._steps.append(step)
            self._closing = None
        else:
            self._closing = step

    def steps(self) -> list[Step]:
        """Oldest first; [] when nothing that was chosen was for this subscription."""
        steps = list(self._steps)
        if steps and self._closing is not None and self._newest is not None:
            steps.append(_newest_in_set(self._subscription, self._newest, self._closing))
        return steps[-1:] if self._subscription.config.delivery.mode == "latest" else steps


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


def refuse_empty(filters: Filters) -> None:
    """Raises InputError when nothing was chosen: everything to everyone is never meant by silence."""
    if filters == Filters(new_ids=filters.new_ids):
        raise InputError(
            "A replay needs to be told what to send.",
            "Give at least one of --subscription, --entity, --key, --since, --until, --from-lsn, --to-lsn, "
            "--transaction, --failed.",
        )
