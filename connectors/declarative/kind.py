"""A definition as the ConnectorKind that destinations are read by and the conformance kit tries out."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from yarl import URL

from connectors.declarative.connector import DeclarativeConnector, goes_by_known
from connectors.declarative.definition import (
    LEAVE_OUT,
    SETTING_TYPES,
    Definition,
    Example,
    ExampleCase,
    Examples,
    Rule,
    Setting,
    parse_definition,
)
from connectors.declarative.rendering import rendered, uses
from connectors.declarative.waits import Wait
from hub.connector import Case, ConnectorKind, Reply, TimeHeader, Trial, found_of
from hub.delivery import Message
from hub.documents import encode
from hub.project import Limits

CLEARS = "a null of the body clears its field"  # the kit's check


def read_definition(file: str, content: bytes) -> ConnectorKind[Any]:
    """The connector that a YAML file defines; `file` is its name in messages. ProjectError with all of its problems."""
    definition = parse_definition(file, content)
    return ConnectorKind(
        settings=_settings_type(definition),
        open=partial(_open, definition),
        check=partial(_check, definition),
        required=definition.required,
        sends_body=_events_with_body(definition),
        side_effects=definition.side_effects,
        about=definition.about,
        trial=_trial(definition, definition.examples) if definition.examples else None,
    )


def _events_with_body(definition: Definition) -> tuple[str, ...]:
    events = ("created", "updated") if uses(definition.upsert, "body") else ()
    return (*events, "deleted") if uses(definition.delete, "body") else events


def _settings_type(definition: Definition) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for setting in definition.settings:
        type_ = SETTING_TYPES[setting.type]
        required = setting.default is msgspec.NODEFAULT
        fields.append((setting.name, type_) if required else (setting.name, type_, setting.default))
    return msgspec.defstruct(f"{definition.name} settings", fields, frozen=True, kw_only=True)


def _open(definition: Definition, settings: msgspec.Struct, limits: Limits) -> DeclarativeConnector:
    values = msgspec.structs.asdict(settings)
    for setting in definition.settings:
        if setting.type == "url":
            values[setting.name] = values[setting.name].rstrip("/")
    return DeclarativeConnector(definition, values, limits)


def _check(definition: Definition, settings: msgspec.Struct) -> str | None:
    values = msgspec.structs.asdict(settings)
    return next(filter(None, (_wrong(one, values[one.name]) for one in definition.settings)), None)


def _wrong(setting: Setting, value: Any) -> str | None:
    if setting.choices and value not in setting.choices:
        return f"`{setting.name}` must be one of {', '.join(map(str, setting.choices))}."
    if setting.default is msgspec.NODEFAULT and value == "":
        return f"`{setting.name}` is empty. Give it a value."
    if isinstance(value, str) and value and not value.isprintable():
        return f"`{setting.name}` has a line break. Write it on one line."
    return _wrong_url(setting.name, value) if setting.type == "url" else None


def _wrong_url(name: str, value: str) -> str | None:
    try:
        url = URL(value)
    except ValueError:
        return f"`{name}` is no URL. Write https://host."
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        return f"`{name}` must be an http or https address without a query. Write https://host."
    return None


def _trial(definition: Definition, examples: Examples) -> Trial:
    def replies(name: str) -> Callable[[Sequence[Message]], Reply] | None:
        return partial(_reply, examples.answers[name]) if name in examples.answers else None

    steps = {"upsert": definition.upsert, "delete": definition.delete}
    finds = tuple(step for step, request in steps.items() if request and request.find)
    leaves_out = {CLEARS: "`clear: leave out` clears nothing"} if definition.clear == LEAVE_OUT else {}
    return Trial(
        settings=examples.settings,
        body=examples.body,
        answer=partial(_answer, examples, finds),
        find=replies("find") if finds else None,
        finds=finds,
        remembers=tuple(step for step, request in steps.items() if goes_by_known(request)),
        nothing_found=replies("nothing_found"),
        create=(replies("create") or replies("upsert") or _no_content) if definition.upsert.create else None,
        nothing_written=_reply(examples.nothing_written, []) if examples.nothing_written else None,
        waits=_time_headers([rule.wait for rule in definition.rules if _is_of_429(rule)][:1]),
        throttles=True,
        quotas={quota.header: _time_headers([quota.wait]) for quota in definition.quotas if quota.header},
        cases=tuple(_case(case) for case in examples.cases),
        excused=leaves_out,
    )


def _is_of_429(rule: Rule) -> bool:
    """Whatever else the answer says."""
    fits = not rule.statuses or any(429 in statuses for statuses in rule.statuses)
    return rule.outcome == "throttle" and rule.when is None and fits


def _time_headers(waits: Iterable[Wait | None]) -> tuple[TimeHeader, ...]:
    forms = {"header": ("seconds", "date", "epoch"), "epoch": ("epoch",)}
    ways = [way for wait in waits if wait for way in wait.ways]
    return tuple(TimeHeader(form, name) for way, name in ways for form in forms.get(way, ()))


def _case(case: ExampleCase) -> Case:
    find = partial(_reply, case.find) if case.find else None
    return Case(
        case.name,
        tuple(partial(_reply, answer) for answer in case.answers),
        case.outcomes,
        case.events,
        find,
        case.requests,
        case.bodies,
        case.headers,
        case.wait,
        case.body,
        case.known,
    )


def _answer(examples: Examples, finds: Sequence[str], messages: Sequence[Message], before: int) -> Reply:
    """As the system would answer when all is well."""
    step = "delete" if messages and messages[0].event == "deleted" else "upsert"
    if step in finds and before == 0:
        step = "find"
    example = examples.answers.get(step)
    return _reply(example, messages) if example else Reply(204)


def _no_content(messages: Sequence[Message]) -> Reply:
    return Reply(204)


def _reply(example: Example, messages: Sequence[Message]) -> Reply:
    now = int(time.time())
    shown: list[dict[str, Any]] = [
        {"id": one.id, "key": one.key, "event": one.event, "index": index, "found": found_of(one), "now": now}
        for index, one in enumerate(messages)
    ]
    first = shown[0] if shown else {"now": now}
    items = [rendered(example.item, each) for each in shown]
    headers = {name: str(rendered(value, first)) for name, value in example.headers.items()}
    if example.body is None:
        return Reply(example.status, headers)
    body = encode(rendered(example.body, first, items))
    return Reply(example.status, {"content-type": "application/json", **headers}, body)
