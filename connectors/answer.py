"""What the answer to an accepted delivery asks for, where its destination may ask for anything."""

from collections.abc import Collection
from typing import TypeVar

import msgspec

from hub.delivery import Forward, Outcome, OutcomeKind
from hub.project.yaml_fields import LONGEST, duration

T = TypeVar("T")


class _Answer(msgspec.Struct):
    reschedule: msgspec.Raw = msgspec.Raw()
    forward: msgspec.Raw = msgspec.Raw()


class _Reschedule(msgspec.Struct):
    after: str | int | float  # "1h", or seconds
    reason: str = ""


class _Forward(msgspec.Struct):
    entity: str
    key: str | int
    data: msgspec.Raw


def read_answer(content: bytes, after: str | None, answers: Collection[str], detail: str) -> Outcome:
    """DELIVERED or RESCHEDULE, with what is forwarded; REFUSED when what was asked for cannot be told.

    `content`: the answer's body, which may be anything; `after`: its Hub-Reschedule header; `answers`: what counts of
    reschedule and forward, the rest is not looked at; `detail`: the outcome's.
    """
    try:
        answer = _decode(content, _Answer, "") if content.lstrip().startswith(b"{") else _Answer()
        forward = _forward(answer.forward) if "forward" in answers else ()
        wanted = _wanted(answer.reschedule, after) if "reschedule" in answers else None
        if wanted is None:
            return Outcome(OutcomeKind.DELIVERED, detail, forward=forward)
        seconds = _seconds(wanted.after)
    except _Unclear as unclear:
        return Outcome(OutcomeKind.REFUSED, f"its answer is not clear: {unclear}. It was {detail}")
    reason = " ".join(wanted.reason.replace("\0", " ").split())
    return Outcome(OutcomeKind.RESCHEDULE, reason or detail, after=seconds, forward=forward)


class _Unclear(Exception):
    """What is wrong with an answer, without a stop."""


def _decode(content: bytes, type: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(content, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Unclear(f"{where} {error}".strip().rstrip(".")) from None


def _wanted(body: msgspec.Raw, header: str | None) -> _Reschedule | None:
    if _is_given(body):
        return _decode(bytes(body), _Reschedule, "`reschedule`")
    return None if header is None else _Reschedule(header.strip())


def _is_given(value: msgspec.Raw) -> bool:
    return bytes(value) not in (b"", b"null")


def _seconds(after: str | float) -> float:
    """Of `1h`, `3600` or 3600."""
    if isinstance(after, str):
        text = f"{after}s" if after.replace(".", "", 1).isdigit() else after
        found = duration(text)
    else:
        found = float(after) if 0 <= after <= LONGEST else None
    if found is None:
        raise _Unclear(f"{after!r} is no time to wait, such as 1h or 3600 (seconds)")
    return found


def _forward(documents: msgspec.Raw) -> tuple[Forward, ...]:
    if not _is_given(documents):
        return ()
    found = _decode(bytes(documents), list[_Forward], "`forward`")
    return tuple(Forward(one.entity, str(one.key), _data(one.data)) for one in found)


def _data(data: msgspec.Raw) -> bytes | None:
    return bytes(data) if _is_given(data) else None
