"""Answers of a system into outcomes: rules for the whole of it, readings for single items."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from connectors.declarative.definition import Reading, Request, Rule
from connectors.declarative.rendering import asked, asked_all, at_path, holds
from connectors.http import classify, summary
from connectors.transport import Answer
from hub.delivery import Outcome, OutcomeKind
from hub.documents import decode

KINDS = {
    "delivered": OutcomeKind.DELIVERED,
    "retry": OutcomeKind.RETRY,
    "throttle": OutcomeKind.RETRY,
    "refused": OutcomeKind.REFUSED,
    "expected": OutcomeKind.REFUSED,
    "held": OutcomeKind.HELD,
    "dead": OutcomeKind.DEAD,
}
SHOWN = 300  # characters of an item's result that a detail keeps
_NO_JSON = object()


class Missing(Outcome, frozen=True, gc=False):
    """There is nothing by the id that was asked for. It is for the connector to say what follows."""


@dataclass(frozen=True, slots=True)
class Read:
    """An answer, taken to pieces once."""

    answer: Answer
    headers: Mapping[str, str]  # names in lower case
    json: Any  # None when it is no JSON
    fault: Outcome | None  # of a 2xx that is not what the API would say
    variables: Mapping[str, Any]  # what rules see


def read(answer: Answer, settings: Mapping[str, Any]) -> Read:
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in answer.headers}
    tree = _json(answer.content)
    fault = None
    if 200 <= answer.status < 300 and answer.content.strip() and tree is _NO_JSON:
        is_json = "json" in headers.get("content-type", "json")
        what = "its JSON is not whole" if is_json else f"it is {headers['content-type'].split(';')[0]}, not JSON"
        kind = OutcomeKind.RETRY if is_json else OutcomeKind.HELD
        fault = Outcome(kind, f"Something answers {answer.status}, but {what}.")
    tree = None if tree is _NO_JSON else tree
    seen = {"settings": settings, "status": answer.status, "headers": headers, "answer": tree}
    return Read(answer, headers, tree, fault, seen)


def _json(content: bytes) -> Any:
    try:
        return decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NO_JSON


def whole(reading: Read, rules: Sequence[Rule], now: float) -> Outcome | None:
    """What an answer means for all that was asked; None when its items tell. `now` in seconds since 1970."""
    rule = next((rule for rule in rules if _fits(rule, reading)), None)
    detail = summary(reading.answer)
    if rule is not None:
        return None if rule.outcome == "results" else _outcome(rule, reading, reading.variables, detail, now)
    if 200 <= reading.answer.status < 300:
        return reading.fault
    return classify(reading.answer, detail, now)


def _fits(rule: Rule, reading: Read) -> bool:
    by_status = not rule.statuses or any(reading.answer.status in statuses for statuses in rule.statuses)
    return by_status and holds(rule.when, reading.variables)


def _outcome(rule: Rule, reading: Read, variables: Mapping[str, Any], detail: str, now: float) -> Outcome:
    detail = asked(rule.detail, variables) or detail
    if rule.outcome == "missing":
        return Missing(OutcomeKind.REFUSED, detail)
    after = rule.wait.seconds(reading.headers, now) if rule.wait else None
    return Outcome(KINDS[rule.outcome], detail, after=after, expected=rule.outcome == "expected")


@dataclass(frozen=True, slots=True)
class Named:
    """An item of a request, as an answer may speak of it."""

    name: str  # "" when results come by index
    variables: Mapping[str, Any]


def by_item(reading: Read, request: Request, items: Sequence[Named], now: float) -> list[Outcome]:
    """An outcome for each item: the first that is told of it, in the order of the readings. One that the answer says
    nothing of was not written, or found: it is tried again; but what a list of things found doesn't have is not there.

    Without readings, what is accepted as a whole is delivered.
    """
    if not request.readings:
        return [Outcome(OutcomeKind.DELIVERED, summary(reading.answer))] * len(items)
    found: dict[int, Outcome] = {}
    listed: set[int] = set()  # places that a list's result is about, with or without an outcome
    for part in request.readings:
        for place, result in _placed(reading, part, items):
            if 0 <= place < len(items):
                listed |= set() if part.each is None else {place}
                outcome = _of_result(part, result, place, reading, items[place], now)
                if outcome is not None:
                    found.setdefault(place, _with_id(outcome, part) if request.finding else outcome)
    return [found.get(place) or _untold(reading, request, place in listed) for place in range(len(items))]


def _placed(reading: Read, part: Reading, items: Sequence[Named]) -> Iterator[tuple[int, Any]]:
    """Each result with the place of each item that it is about. In any case, where no other has the very name."""
    results = list(_results(reading.json, part))
    if part.name is None:
        yield from ((0 if len(items) == 1 else index, result) for index, result in results)
        return
    names = [asked_all(part.name, {**reading.variables, "result": result, "index": index}) for index, result in results]
    known = {name for some in names for name in some}
    exact: dict[str, list[int]] = {}
    folded: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        if item.name in known:
            exact.setdefault(item.name, []).append(place)
        else:
            folded.setdefault(item.name.casefold(), []).append(place)
    for some, (_, result) in zip(names, results, strict=True):
        places = [place for name in some for place in exact.get(name) or folded.get(name.casefold(), [])]
        yield from ((place, result) for place in dict.fromkeys(places))


def _with_id(outcome: Outcome, part: Reading) -> Outcome:
    """Of what `find` found. One that should have an id and has none is not taken for one that is not there."""
    if outcome.kind is not OutcomeKind.DELIVERED or part.receiver_id is None or outcome.receiver_id:
        return outcome
    return Outcome(OutcomeKind.RETRY, f"It is found, and `receiver_id` gives no id: {outcome.detail}")


def _untold(reading: Read, request: Request, listed: bool) -> Outcome:
    """Of an item that no result has an outcome for. `listed`: one of a list is about it nevertheless."""
    if request.finding and not listed and any(_is_listing(reading.json, part.each) for part in request.readings):
        return Outcome(OutcomeKind.DELIVERED, f"It is not there: {summary(reading.answer)}")
    where = ", ".join("the answer" if part.each is None else ".".join(part.each) or "." for part in request.readings)
    what = f"no entry of `results` ({where}) has an outcome for the document"
    return Outcome(OutcomeKind.RETRY, f"The answer says nothing of it: {what}: {summary(reading.answer)}")


def _is_listing(tree: Any, each: tuple[str, ...] | None) -> bool:
    """Whether there is a list, be it empty, or a map by place, which the answer itself is not taken for."""
    found = None if each is None else at_path(tree, each)
    return isinstance(found, list) or (isinstance(found, dict) and each != ())


def _results(tree: Any, part: Reading) -> Iterator[tuple[int, Any]]:
    """With their index, which a map has as its keys; -1 when there is none."""
    if part.each is None:
        yield 0, tree
        return
    found = at_path(tree, part.each)
    if isinstance(found, list):
        yield from enumerate(found)
    elif isinstance(found, dict):
        for key, result in found.items():
            yield int(key) if key.isascii() and key.isdigit() and len(key) < 9 else -1, result


def _of_result(part: Reading, result: Any, place: int, reading: Read, item: Named, now: float) -> Outcome | None:
    variables = {**item.variables, **reading.variables, "result": result, "index": place}
    for rule in part.rules:
        if holds(rule.when, variables):
            shown = msgspec.json.encode(result)[:SHOWN].decode("utf-8", "replace")
            detail = str(reading.answer.status) if rule.outcome == "delivered" else shown
            outcome = _outcome(rule, reading, variables, detail, now)
            return msgspec.structs.replace(outcome, receiver_id=asked(part.receiver_id, variables))
    return None
