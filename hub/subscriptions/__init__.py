"""From a document's change to what one subscriber gets of it.

A subscription is a live filtered set: `match` and `where` say which documents are in it, and the event follows from
whether the version before and the version after are:

    before   after    event
    not in   in       created
    in       in       updated    if `changed` and `when` let it through
    in       not in   deleted
    not in   not in   nothing
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import msgspec

from hub.documents import Cause, Event, Shape, decode, encode
from hub.errors import InputError
from hub.project import SubscriptionConfig
from hub.subscriptions.bodies import CompiledBody, compile_body
from hub.subscriptions.diff import Path, PathPattern, any_selected, diff, parse_path, path_text
from hub.subscriptions.match import Matcher, compile_match
from hub.subscriptions.templates import SET_NAMES, WHEN_NAMES, Expression, TemplateFailure, compile_expression


class DocumentChange:
    """One document's step from one version to the next. Trees and differences are made when first asked for."""

    def __init__(
        self,
        shape: Shape,
        entity: str,
        key: str,
        version: int,
        before_version: int,
        before: bytes | None,
        after: bytes | None,
        root_row: bool = False,
    ) -> None:
        self.shape = shape
        self.entity = entity
        self.key = key
        self.version = version
        self.before_version = before_version  # the document's version before; 0 when there was none
        self.before = before  # the version before as JSON; None when there was no document
        self.after = after  # this version as JSON; None when the document was deleted
        self.root_row = root_row  # the root row itself was inserted or deleted

    @cached_property
    def before_tree(self) -> Any:
        return None if self.before is None else decode(self.before)

    @cached_property
    def after_tree(self) -> Any:
        return None if self.after is None else decode(self.after)

    @cached_property
    def paths(self) -> list[Path]:
        """What differs; [] unless there is a document on both sides."""
        if self.before is None or self.after is None:
            return []
        return diff(self.before_tree, self.after_tree, self.shape)

    @cached_property
    def changed(self) -> list[str]:
        return list(dict.fromkeys(map(path_text, self.paths)))


class Planned(msgspec.Struct, frozen=True, gc=False):
    """What a subscription gets of a change: one delivery."""

    event: Event
    cause: Cause
    before_version: int  # the last version that was in the set; 0: none
    failure: str = ""  # why it can't be decided: the delivery is parked with this reason


def delivery_id(identity: str, subscription: str, entity: str, key: str, version: int, turn: int) -> str:
    """Stable for ever: the receiver drops duplicates by it.

    "msg_" and the first 40 hex digits of the SHA-256 of the compact JSON array of the arguments, in this order.
    """
    named = encode([identity, subscription, entity, key, version, turn])
    return f"msg_{sha256(named).hexdigest()[:40]}"


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription, ready to plan its deliveries. `compile` makes it."""

    config: SubscriptionConfig
    shape: Shape
    fits: Matcher | None  # `match`; None: everything
    where: Expression | None
    changed: tuple[PathPattern, ...]
    when: Expression | None
    body: CompiledBody
    sent: tuple[Event | None, ...]  # by was in the set * 2 + is in it: the event, if `on` has it
    snapshots: bool  # `on` has snapshot
    plain: bool  # nothing but `on` decides

    @classmethod
    def compile(cls, config: SubscriptionConfig, shape: Shape) -> "Subscription":
        """InputError when a template or path is not well formed; `hub.match.problems` judges `match`."""
        return cls(
            config=config,
            shape=shape,
            fits=compile_match(config.match, shape) if config.match else None,
            where=compile_expression(config.where, SET_NAMES) if config.where else None,
            changed=tuple(_changed_pattern(text) for text in config.changed),
            when=compile_expression(config.when, WHEN_NAMES) if config.when else None,
            body=compile_body(config.body),
            sent=tuple(event if event and event.value in config.on else None for event in _EVENTS),
            snapshots="snapshot" in config.on,
            plain=not (config.match or config.where or config.changed or config.when),
        )

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def everything(self) -> bool:
        """Every document is in the set."""
        return self.fits is None and self.where is None

    def selects(self, tree: Any) -> bool:
        """Whether a document is in the set. TemplateFailure when `where` can't say."""
        if self.fits is not None and not self.fits(tree):
            return False
        return self.where is None or bool(self.where.evaluate({"doc": tree}))

    def plan(self, change: DocumentChange, cause: Cause = Cause.ROW) -> Planned | None:
        """What of this change is delivered; None when nothing is.

        `cause` is ROW for the changes of a stream, SNAPSHOT for the initial load, RESYNC for what a later snapshot
        found.
        """
        if self.plain and cause is _ROW:
            # The path of every change: nothing is decoded.
            was = change.before is not None
            event = self.sent[was * 2 + (change.after is not None)]
            return None if event is None else Planned(event, _ROW, change.before_version if was else 0)
        if cause is Cause.SNAPSHOT and not self.snapshots:
            return None
        try:
            was, now = self._membership(change)
        except TemplateFailure as failure:
            return self._undecided(change, cause, f"where: {failure}")
        event = self._event_at(was * 2 + now, cause)
        if event is Event.UPDATED and (self.changed or self.when is not None):
            return self._plan_update(change, cause)
        if event is None:
            return None
        return Planned(event, _cause_of(event, change, cause), change.before_version if was else 0)

    def _membership(self, change: DocumentChange) -> tuple[bool, bool]:
        was, now = change.before is not None, change.after is not None
        if self.everything:
            return was, now
        return was and self.selects(change.before_tree), now and self.selects(change.after_tree)

    def _event_at(self, position: int, cause: Cause) -> Event | None:
        """What is sent of was in the set * 2 + is in it; of the initial load, all of it."""
        return _EVENTS[position] if cause is Cause.SNAPSHOT else self.sent[position]

    def _undecided(self, change: DocumentChange, cause: Cause, failure: str) -> Planned | None:
        """`where` failed: the delivery that may be missing is parked, as if every document were in the set.

        None when `on` has no event that this change could be.
        """
        before, after = change.before is not None, change.after is not None
        possible = [before * 2 + after] if before is not after else [3, 1, 2]
        event = next((found for found in (self._event_at(position, cause) for position in possible) if found), None)
        if event is None:
            return None
        before_version = 0 if event is Event.CREATED else change.before_version
        return Planned(event, _cause_of(event, change, cause), before_version, failure)

    def _plan_update(self, change: DocumentChange, cause: Cause) -> Planned | None:
        if self.changed and not any_selected(self.changed, change.paths):
            return None
        planned = Planned(Event.UPDATED, _cause_of(Event.UPDATED, change, cause), change.before_version)
        if self.when is None:
            return planned
        try:
            return planned if self.when.evaluate(_when_variables(change, planned, self.when.names)) else None
        except TemplateFailure as failure:
            return msgspec.structs.replace(planned, failure=f"when: {failure}")


_ROW = Cause.ROW
# By was in the set * 2 + is in it.
_EVENTS: tuple[Event | None, ...] = (None, Event.CREATED, Event.DELETED, Event.UPDATED)


def _cause_of(event: Event, change: DocumentChange, cause: Cause) -> Cause:
    if cause is not Cause.ROW or event is Event.UPDATED:
        return cause
    root_row = change.root_row or change.before is None or change.after is None
    return Cause.ROW if root_row else Cause.FILTER


def _when_variables(change: DocumentChange, planned: Planned, names: frozenset[str]) -> dict[str, Any]:
    return {
        "doc": change.after_tree,
        "before": change.before_tree,
        "changed": change.changed if "changed" in names else [],
        "event": planned.event.value,
        "cause": planned.cause.value,
        "key": change.key,
        "version": change.version,
    }


def _changed_pattern(text: str) -> PathPattern:
    try:
        return parse_path(text)
    except ValueError as error:
        raise InputError(f"changed: {error}", "Name fields as the document has them.") from None
