"""What a delivery says: a CloudEvent, or the body that the subscription gives, rendered at each attempt."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from hub.documents import Cause, Event, Shape, decode, encode
from hub.errors import InputError
from hub.subscriptions.diff import changed_paths
from hub.subscriptions.sandbox import Budget
from hub.subscriptions.templates import BODY_NAMES, Template, compile_template, is_unicode, plain_json

if TYPE_CHECKING:
    from hub.subscriptions import Subscription

MAX_PARTS = 10_000  # maps, lists and scalars of one body
EVENT_NAMES = frozenset({"default", *(event.value for event in Event)})
_EPOCH = datetime(1970, 1, 1)  # UTC, without a zone to write
_NULL = msgspec.Raw(b"null")


class BodyInputs(msgspec.Struct, frozen=True, gc=False):
    """All that a body can show of one delivery."""

    hub: str  # the project's name
    source: str
    delivery_id: str
    entity: str
    key: str
    version: int
    event: Event  # for this subscription
    cause: Cause
    lsn: str  # as Postgres writes it
    transaction: int
    committed_at: int  # microseconds since 1970, UTC
    document: bytes | None  # this version; not looked at on `deleted`
    before: bytes | None  # the last version that was in the set; not looked at on `created`


class Body(msgspec.Struct, frozen=True, gc=False):
    content_type: str
    content: bytes
    kept: bytes  # what of it tells one state of a document from another: without the ids and times of a CloudEvent


class CompiledBody(msgspec.Struct, frozen=True):
    """A subscription's `body:` with its templates compiled. Maps, lists and scalars stay what they are."""

    by_event: dict[Event, Any]  # an event that is absent gets a CloudEvent
    names: frozenset[str]  # the variables that the templates use


def compile_body(body: Any) -> CompiledBody:
    """InputError naming the place inside the body when a template is not well formed.

    A map whose keys are all of created, updated, deleted and default is a body per event.
    """
    parts = _Parts()
    if body is None:
        return CompiledBody({}, frozenset())
    if isinstance(body, Mapping) and body and EVENT_NAMES.issuperset(body):
        compiled = {name: parts.compile(part, f"body.{name}") for name, part in body.items()}
        chosen = {event: compiled.get(event.value, compiled.get("default", _ABSENT)) for event in Event}
    else:
        chosen = dict.fromkeys(Event, parts.compile(body, "body"))
    return CompiledBody({event: part for event, part in chosen.items() if part is not _ABSENT}, frozenset(parts.names))


_ABSENT = object()


class _Parts:
    """Compiles the parts of one body, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.names: set[str] = set()

    def compile(self, part: Any, place: str) -> Any:
        self.count += 1
        if self.count > MAX_PARTS:
            raise InputError(f"{place}: The body has more than {MAX_PARTS} parts.", "Make it smaller.")
        if isinstance(part, str):
            return self._template(part, place)
        if isinstance(part, Mapping):
            return {str(name): self.compile(value, f"{place}.{name}") for name, value in part.items()}
        if isinstance(part, list | tuple):
            return [self.compile(value, f"{place}[{index}]") for index, value in enumerate(part)]
        return plain_json(part, place)

    def _template(self, text: str, place: str) -> Any:
        if not is_unicode(text):
            raise InputError(f"{place}: The text has half a character, a lone surrogate.", "Write it as one character.")
        if "{" not in text:
            return text
        template = compile_template(text, BODY_NAMES, place)
        self.names |= template.names
        return template


def render_body(subscription: "Subscription", inputs: BodyInputs) -> Body:
    """TemplateFailure, with its place, when a template of the body fails on this document."""
    if inputs.event not in subscription.body.by_event:
        return _cloud_event(inputs, subscription.shape)
    part = subscription.body.by_event[inputs.event]
    variables = _variables(inputs, subscription.shape, subscription.body.names)
    content = encode(_rendered(part, variables, Budget()))
    return Body("application/json", content, content)


def _rendered(part: Any, variables: Mapping[str, Any], budget: Budget) -> Any:
    if isinstance(part, Template):
        return part.render(variables, budget)
    if isinstance(part, dict):
        return {name: _rendered(value, variables, budget) for name, value in part.items()}
    if isinstance(part, list):
        return [_rendered(value, variables, budget) for value in part]
    return part


class _Data(msgspec.Struct):
    document: msgspec.Raw
    before: msgspec.Raw
    changed: list[str]


class _CloudEvent(msgspec.Struct):
    """CloudEvents 1.0, structured mode, with two extension attributes of ours."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    hubversion: int
    hubcause: str
    data: _Data


CLOUD_EVENT_FIELDS = frozenset(_CloudEvent.__struct_fields__)


def _cloud_event(inputs: BodyInputs, shape: Shape) -> Body:
    deleted, created = inputs.event is Event.DELETED, inputs.event is Event.CREATED
    event = _CloudEvent(
        specversion="1.0",
        id=inputs.delivery_id,
        source=f"hub/{inputs.hub}",
        type=f"{inputs.entity}.{inputs.event.value}",
        subject=inputs.key,
        time=_time(inputs.committed_at),
        datacontenttype="application/json",
        hubversion=inputs.version,
        hubcause=inputs.cause.value,
        data=_Data(
            document=_NULL if deleted else _raw(inputs.document),
            before=_NULL if created else _raw(inputs.before),
            changed=_changed(inputs, shape),
        ),
    )
    return Body("application/cloudevents+json", encode(event), inputs.document or b"")


def _variables(inputs: BodyInputs, shape: Shape, names: frozenset[str]) -> dict[str, Any]:
    """What templates see; on `deleted`, `doc` is the last version that was in the set."""
    document = inputs.before if inputs.event is Event.DELETED else inputs.document
    before = None if inputs.event is Event.CREATED else inputs.before
    return {
        "doc": _tree(document) if "doc" in names else None,
        "before": _tree(before) if "before" in names else None,
        "changed": _changed(inputs, shape) if "changed" in names else [],
        "event": inputs.event.value,
        "cause": inputs.cause.value,
        "key": inputs.key,
        "version": inputs.version,
        "meta": {
            "hub": inputs.hub,
            "source": inputs.source,
            "lsn": inputs.lsn,
            "transaction": inputs.transaction,
            "committed_at": _time(inputs.committed_at),
        },
    }


def _changed(inputs: BodyInputs, shape: Shape) -> list[str]:
    """The paths that an update changed; [] for a document that came or went."""
    if inputs.event is not Event.UPDATED or inputs.before is None or inputs.document is None:
        return []
    return changed_paths(decode(inputs.before), decode(inputs.document), shape)


def _raw(body: bytes | None) -> msgspec.Raw:
    return _NULL if body is None else msgspec.Raw(body)


def _tree(body: bytes | None) -> Any:
    return None if body is None else decode(body)


def _time(microseconds: int) -> str:
    """RFC 3339, UTC, always with six fraction digits: texts sort as the instants do."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds") + "Z"
