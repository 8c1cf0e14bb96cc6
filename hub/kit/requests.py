"""What a connector sends: to whom, by which id, and whether what it was given is in it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from hub.connector import NotTried, Reply, Trial, found_of
from hub.delivery import Message, OutcomeKind
from hub.kit import server
from hub.kit.bench import DELIVERED, REFUSED, RETRY, Bench, Check, Stage, Tried, by_step, deliver, expect, key_of, named
from hub.kit.server import Asked, Behaviour, Server

STRANGER = 99  # the number of a document that nobody asked for
FILLED = "kit-filled"  # what a null is filled with
ELSEWHERE = "/../../admin?x=1#y"  # what leads to another path where it is not quoted

Path = tuple[str | int, ...]


# Every request


async def lets_nothing_in(bench: Bench) -> None:
    """no value becomes a header, or leads to another path"""
    for evil in (f"{key_of(1)}{ELSEWHERE}", f"{key_of(1)}\r\nx-evil: 1"):
        message = msgspec.structs.replace(bench.message(1, bench.stage.event, like=evil), key=evil)
        tried = await bench.tried(None, message)
        assert not any("x-evil" in asked.headers for asked in tried.proper), "A value became a header."
        assert not _leads_elsewhere(tried), "A value led to another path or query: it needs the filter urlencode."


def _leads_elsewhere(tried: Tried) -> bool:
    return any("?x=1" in asked.path or "/admin" in asked.path for asked in tried.proper)


# What asks for the system's own ids


async def leaves_others_alone(bench: Bench) -> None:
    """what is found of somebody else is left alone"""
    stage, find = bench.stage, bench.trial.find
    assert find
    stranger = bench.message(STRANGER, stage.event)
    answer = find([stranger])
    if stranger.key.encode() not in answer.body:
        raise NotTried("the answer to `find` in `test:` names no document, as {{ key }} would")
    tried = await bench.tried(server.says(answer), bench.message(1, stage.event))
    does = "deletes" if stage.event == "deleted" else "updates"
    touched = tried.has(found_of(stranger))
    assert not touched, f"It {does} what is found, whosever it is: compare its name, as by `name` and `for`."


async def leaves_what_is_not_found(bench: Bench) -> None:
    """what is not found is done, and nothing more is sent"""
    if bench.trial.nothing_found is None:
        raise NotTried("no `nothing_found` says what its system answers then")
    tried = await bench.tried(found=bench.trial.nothing_found)
    expect(tried.outcomes, DELIVERED)
    assert not tried.proper, f"Nothing is found, and it sends {tried.proper[0].method} {tried.proper[0].path}."


# What comes after it


async def acts_on_what_is_found(bench: Bench) -> None:
    """what is found is updated or deleted, by the id that was found"""
    stage = bench.stage
    assert stage.found
    tried = await bench.tried()
    expect(tried.outcomes, DELIVERED)
    done = "deleted" if stage.event == "deleted" else "delivered"
    for message in tried.messages:
        there = found_of(message).encode() in stage.found([message]).body
        assert there, (
            "The answer to `find` in `test:` lacks the kit's id. Write {{ found }} where the API gives its own."
        )
        by_key = stage.writes and tried.has(message.key) and not await _creates_alike(bench, tried)
        assert tried.has(found_of(message)) or by_key, (
            f"{message.key} is {done}, it says, and no request has the id that was found for it. "
            "Does `for` give what `name` is, and is there no entry before it in the `results` of `find`?"
        )


async def _creates_alike(bench: Bench, tried: Tried) -> bool:
    """Whether the same goes to the same places when nothing is found: then what is found has not been noticed."""
    if bench.trial.create is None or bench.trial.nothing_found is None:
        return False
    created = await bench.tried(found=bench.trial.nothing_found)
    return {(one.method, one.path) for one in tried.proper} == {(one.method, one.path) for one in created.proper}


async def quotes_what_is_found(bench: Bench) -> None:
    """an id that is found leads to no other path"""
    find = bench.stage.found
    assert find
    message = bench.message(1, bench.stage.event)
    id = found_of(message)
    answer = find([message])
    if f'"{id}"'.encode() not in answer.body:
        raise NotTried("the ids of its system are no texts")
    evil = replace(answer, body=answer.body.replace(id.encode(), (id + ELSEWHERE).encode()))
    tried = await bench.tried(None, message, found=lambda messages: evil)
    assert not _leads_elsewhere(tried), "`found` led to another path or query: it needs the filter urlencode."


async def bears_that_it_is_gone(bench: Bench) -> None:
    """404 for what was found: it is gone since"""
    if bench.stage.event == "deleted":
        await _expect_of_change(bench, 404, DELIVERED, "missing", "`delete`")
    else:
        await _expect_of_change(bench, 404, RETRY, "missing", "`upsert`: the next attempt creates it")


async def bears_that_it_is_there(bench: Bench) -> None:
    """409 for what was not found: it is there since"""
    await _expect_of_change(bench, 409, RETRY, "retry", "`create`: the next attempt finds it")


async def _expect_of_change(bench: Bench, status: int, kind: OutcomeKind, rule: str, where: str) -> None:
    """Of a request that comes too late, as another has deleted or created since what was asked for."""
    if _has_case(bench.trial, bench.stage, status):
        raise NotTried("a case of its own shows it")
    tried = await bench.tried(server.says(Reply(status)))
    if any(len(named(asked, tried.messages)) > 1 for asked in tried.proper):
        raise NotTried("one request is about several documents")
    wanted = kind.name.lower()
    for outcome in tried.outcomes:
        assert outcome.kind is kind, (
            f"It should be {wanted}, and is {outcome.kind.name.lower()}: {outcome.detail.rstrip('.')}. "
            f"Add {{status: {status}, outcome: {rule}}} to the `outcomes` of {where}. "
            f"Or add a case with the API's own {status}."
        )


def _has_case(trial: Trial, stage: Stage, status: int) -> bool:
    return any(
        case.find
        and not case.known
        and case.answers[0]([]).status == status
        and ("deleted" in case.events) is (stage.event == "deleted")
        for case in trial.cases
    )


async def creates_what_is_not_found(bench: Bench) -> None:
    """what is not found is created"""
    tried = await bench.tried()
    expect(tried.outcomes, DELIVERED)
    for message in tried.messages:
        assert tried.has(message.key), f"{message.key} is delivered, it says, and no request has created it."


async def writes_what_it_looks_for(bench: Bench) -> None:
    """what is created is found the next time"""
    message = bench.message(1)
    other = msgspec.structs.replace(message, key=f"{message.key}-b")
    one, two = await bench.tried(None, message), await bench.tried(None, other)
    if _sent(one, first=True) == _sent(two, first=True):
        return  # it looks for a field of the body, which another check looks for
    assert _sent(one) != _sent(two), (
        "`find` asks by the document's key, and `create` sends none: nobody would find what it creates, and each "
        "delivery would create another. Send `key` in the field that `find` looks in."
    )


# What goes by an id that the hub remembers


async def goes_by_what_is_remembered(bench: Bench) -> None:
    """an id that is remembered is gone by, and nothing is looked for"""
    tried = await _tried_by_id(bench)
    expect(tried.outcomes, DELIVERED)
    assert tried.proper, "An id is remembered, and no request is sent."
    for asked in tried.proper:
        by_id = any(found_of(message) in asked.text for message in tried.messages)
        assert by_id, f"The id is remembered, and {asked.method} {asked.path} has it nowhere."


async def looks_for_what_is_gone(bench: Bench) -> None:
    """404 for an id that is remembered: the document is looked for again"""
    tried = await _tried_by_id(bench, gone=True)
    expect(tried.outcomes, DELIVERED)
    assert len(tried.proper) > 1, "404 for an id that is remembered is the end of it, and nothing is looked for."


async def quotes_what_is_remembered(bench: Bench) -> None:
    """an id that is remembered leads to no other path"""
    tried = await _tried_by_id(bench, more=ELSEWHERE)
    assert not _leads_elsewhere(tried), "`known` led to another path or query: it needs the filter urlencode."


async def _tried_by_id(bench: Bench, more: str = "", *, gone: bool = False) -> Tried:
    """Of one message with the system's own id. `more`: at its end; `gone`: the first answer is 404."""
    stage, trial, well = bench.stage, bench.trial, bench.trial.answer
    assert well
    like = bench.message(1, stage.event)
    message = msgspec.structs.replace(like, receiver_id=found_of(like) + more)
    # As the system sees it, the search has been. Where it is gone, it comes after that.
    skipped = -1 if gone else int(_step(stage) in trial.finds and trial.find is not None)

    def step(asked: Asked, about: Sequence[Message], before: int) -> Behaviour:
        proper.append(asked)
        if gone and before == 0:
            return server.says(Reply(404))
        return server.says(well(about, before + skipped))

    proper: list[Asked] = []
    async with Server(by_step([message], step)) as there:
        connector = bench.open(there.url)
        try:
            outcomes = await deliver(connector, [message])
        finally:
            await connector.close()
    return Tried([message], outcomes, [], proper)


def _step(stage: Stage) -> str:
    return "delete" if stage.event == "deleted" else "upsert"


# What writes


async def sees_that_nothing_was_written(bench: Bench) -> None:
    """2xx with nothing written"""
    if bench.trial.nothing_written is None:
        raise NotTried("its system has no such answer")
    expect(await bench.outcomes(server.says(bench.trial.nothing_written)), RETRY, REFUSED)


async def sends_what_it_is_given(bench: Bench) -> None:
    """each value of the body reaches the system"""
    body = bench.body(key_of(1))
    before = _sent(await bench.tried(None, bench.message(1)))
    if body is None or not before:
        raise NotTried("its trial has no body" if body is None else f"no {bench.stage.name} is sent")
    for path, value in _leaves(body):
        after = _sent(await bench.tried(None, bench.message(1, body=_with(body, path, _other(value)))))
        assert before != after, (
            f"{_written(path)} of the body makes no difference to what is sent. Send it, as by "
            '`body: "{{ body }}"`, or leave it out of the `body` of `test:`.'
        )


async def clears_nulls(bench: Bench) -> None:
    """a null of the body clears its field"""
    body = bench.body(key_of(1))
    nulls = [path for path, value in _leaves(body) if value is None]
    if not nulls:
        raise NotTried("the `body` of `test:` has no null")
    cleared = _places(await bench.tried(None, bench.message(1)))
    for path in nulls:
        filled = _places(await bench.tried(None, bench.message(1, body=_with(body, path, FILLED))))
        left_out = [
            place
            for place, value in filled.items()
            # What it stands in may be null as a whole.
            if FILLED in str(value) and not any(place[:depth] in cleared for depth in range(2, len(place) + 1))
        ]
        assert not left_out, (
            f"{_written(path)} of the body is null, and {_written(left_out[0][1:])} is left out of what is sent: "
            "it would stay as it was. Send what clears it there, as `clear` says."
        )


def _sent(tried: Tried, *, first: bool = False) -> list[tuple[str, str, bytes]]:
    return [(asked.method, asked.path, asked.body) for asked in (tried.first if first else tried.proper)]


def _places(tried: Tried) -> dict[Path, Any]:
    """Every value of the requests' JSON, by the request's number and its path."""
    return {(number, *path): value for number, asked in enumerate(tried.proper) for path, value in _of_json(asked.body)}


def _of_json(content: bytes) -> Iterator[tuple[Path, Any]]:
    try:
        yield from _leaves(msgspec.json.decode(content))
    except msgspec.DecodeError:
        return


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each value that is no map and no list, with its path."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, (*path, name))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*path, index))
    else:
        yield path, tree


def _with(tree: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    head, *rest = path
    parts = list(enumerate(tree)) if isinstance(tree, list) else list(tree.items())
    changed = [(name, _with(part, tuple(rest), value) if name == head else part) for name, part in parts]
    return [part for _, part in changed] if isinstance(tree, list) else dict(changed)


def _other(value: Any) -> Any:
    """Another value, as like it as can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return FILLED if value is None else f"{value}x"


def _written(path: Path) -> str:
    return f"`{'.'.join(map(str, path))}`"


def checks_of(stage: Stage, trial: Trial) -> Iterator[Check]:
    """Those that a stage's request is put to."""
    yield lets_nothing_in
    creates = trial.create is not None and stage.event != "deleted"
    if stage.finds:
        yield leaves_others_alone
        if not creates:
            yield leaves_what_is_not_found
    if stage.has_id:
        yield acts_on_what_is_found
        yield quotes_what_is_found
        if creates or stage.event == "deleted":
            yield bears_that_it_is_gone
    if stage.found and not stage.has_id:
        yield creates_what_is_not_found
        yield writes_what_it_looks_for
        yield bears_that_it_is_there
    if _step(stage) in trial.remembers and (stage.has_id or (not stage.finds and stage.found is None)):
        yield goes_by_what_is_remembered
        yield looks_for_what_is_gone
        yield quotes_what_is_remembered
    if stage.writes:
        yield sees_that_nothing_was_written
        yield sends_what_it_is_given
        yield clears_nulls
