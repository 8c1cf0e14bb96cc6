"""What a connector owes when the other side is not what it should be: hub/connector.py's obligations, one check each.

A check opens the connector against a server of its own, delivers, and says by assertion what must hold. An assertion's
text is what the developer reads.
"""

import asyncio
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec

from hub.connector import Connector, ConnectorKind, Reply, Trial, read_settings
from hub.delivery import Message, Outcome, OutcomeKind
from hub.kit import server
from hub.kit.server import Asked, Behaviour, Server
from hub.project import Destination, Limits, Network

THIS_MACHINE = Network((ip_network("127.0.0.0/8"),))
TIMEOUT = 15.0  # seconds of an attempt in the kit
BUSY = 120  # seconds that a throttling server asks for
DETAIL = 500  # characters that a detail may have
MEMORY = 48_000_000  # bytes that an answer may cost

DELIVERED, RETRY, REFUSED, HELD = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REFUSED, OutcomeKind.HELD
Check = Callable[["Bench"], Awaitable[None]]


class Bench:
    """A connector, what it is tried with, and a directory for it."""

    def __init__(self, name: str, kind: ConnectorKind[Any], trial: Trial, directory: Path) -> None:
        self.name = name
        self.trial = trial
        self._kind = kind
        self._directory = directory
        self.secrets = sorted(_texts_with(trial.settings, "secret"))

    def open(self, url: str) -> Connector:
        settings = _filled(self.trial.settings, {"{server}": url, "{directory}": str(self._directory)})
        destination = Destination("kit", self.name, settings=settings)
        return self._kind.open(read_settings(self._kind, destination), Limits(timeout=TIMEOUT, network=THIS_MACHINE))

    def message(self, number: int, event: str = "created", *, like: str = "") -> Message:
        """`number`: from 1, it makes id and key; `like`: the text that stands in the body, instead of the key."""
        key = key_of(number)
        body = msgspec.json.encode(_filled(self.trial.body, {"{key}": like or key}))
        return Message(f"kit-{number}", "kit", "contact", key, 1, event, body, "application/json", 1)

    def messages(self, connector: Connector, most: int = 3) -> list[Message]:
        return [self.message(number) for number in range(1, min(most, connector.batch) + 1)]

    async def outcomes(self, behaviour: Behaviour) -> Sequence[Outcome]:
        """Of a batch, delivered to a server that behaves like this."""
        async with Server(behaviour) as there:
            connector = self.open(there.url)
            try:
                return await deliver(connector, self.messages(connector))
            finally:
                await connector.close()

    def well(self, messages: Sequence[Message]) -> Behaviour:
        """As the system answers when all is well: of the messages that a request is about."""
        seen: list[Message] = []
        counts: dict[str, int] = {}

        async def behaviour(asked: Asked, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            # A request that names none is about those of the one before: it names them by the system's own ids.
            seen = _named(asked, messages) or seen
            before = counts.get(seen[0].id, 0) if seen else 0
            counts.update({message.id: before + 1 for message in seen})
            assert self.trial.answer
            await server.write(self.trial.answer(seen, before), writer)

        return behaviour


def key_of(number: int) -> str:
    return f"kitdoc{number:04}"


async def deliver(connector: Connector, messages: Sequence[Message], timeout: float = TIMEOUT) -> Sequence[Outcome]:
    """As dispatch does it. AssertionError when the connector breaks its word."""
    async with asyncio.timeout(timeout):
        outcomes = await connector.deliver(messages)
    assert len(outcomes) == len(messages), f"It gave {len(outcomes)} outcomes for {len(messages)} messages."
    for outcome in outcomes:
        assert len(outcome.detail) <= DETAIL, f"A detail has {len(outcome.detail)} characters; {DETAIL} are kept."
    return outcomes


def expect(outcomes: Sequence[Outcome], *kinds: OutcomeKind) -> None:
    wrong = next((one for one in outcomes if one.kind not in kinds), None)
    wanted = " or ".join(kind.name.lower() for kind in kinds)
    assert wrong is None, f"It should be {wanted}, and is {wrong.kind.name.lower()}: {wrong.detail}" if wrong else ""


# Every connector


async def delivers(bench: Bench) -> None:
    """a batch is delivered, an outcome for each"""
    messages = [bench.message(number) for number in range(1, 6)]
    async with Server(bench.well(messages)) as there:
        connector = bench.open(there.url)
        try:
            for start in range(0, len(messages), connector.batch):
                part = messages[start : start + connector.batch]
                there.behaviour = bench.well(part) if bench.trial.answer else there.behaviour
                expect(await deliver(connector, part), DELIVERED)
        finally:
            await connector.close()
        if bench.trial.answer:
            for message in messages:
                assert any(_named(asked, [message]) for asked in there.asked), f"{message.key} was never sent."


async def delivers_again(bench: Bench) -> None:
    """the same message may come again"""
    message = bench.message(1)
    async with Server(bench.well([message])) as there:
        connector = bench.open(there.url)
        try:
            for _ in range(2):
                there.behaviour = bench.well([message]) if bench.trial.answer else there.behaviour
                expect(await deliver(connector, [message]), DELIVERED)
        finally:
            await connector.close()


# Those that speak HTTP


async def deletes(bench: Bench) -> None:
    """a deleted document is deleted there, or refused"""
    message = bench.message(1, "deleted")
    async with Server(bench.well([message])) as there:
        connector = bench.open(there.url)
        try:
            expect(await deliver(connector, [message]), DELIVERED, REFUSED)
        finally:
            await connector.close()


async def sends_no_key_twice(bench: Bench) -> None:
    """documents of one key don't share a request"""
    alone, twice = [bench.message(1)], [bench.message(1), bench.message(2, like=key_of(1))]
    most = 0
    for messages in (alone, twice):
        async with Server(bench.well(messages)) as there:
            connector = bench.open(there.url)
            try:
                if connector.batch < len(messages):
                    return
                expect(await deliver(connector, messages), DELIVERED)
            finally:
                await connector.close()
            counts = [asked.text.count(key_of(1)) for asked in there.asked]
            most = most or max(counts)
            assert max(counts) <= most, "Two documents of one key are in one request; systems refuse all of it."


async def takes_no_body(bench: Bench) -> None:
    """2xx without a body"""
    expect(await bench.outcomes(server.says(Reply(204))), DELIVERED, RETRY)


async def sees_that_nothing_was_written(bench: Bench) -> None:
    """2xx with nothing written"""
    if bench.trial.nothing_written is not None:
        expect(await bench.outcomes(server.says(bench.trial.nothing_written)), RETRY, REFUSED)


async def refuses_conflicts(bench: Bench) -> None:
    """409 for all"""
    expect(await bench.outcomes(server.says(Reply(409))), REFUSED, RETRY)


async def waits_for_seconds(bench: Bench) -> None:
    """429 with seconds"""
    await _waits(bench, Reply(429, {"retry-after": str(BUSY)}))


async def waits_for_a_date(bench: Bench) -> None:
    """429 with a date"""
    await _waits(bench, Reply(429, {"retry-after": formatdate(time.time() + BUSY, usegmt=True)}))


async def waits_for_a_busy_server(bench: Bench) -> None:
    """503 with Retry-After"""
    await _waits(bench, Reply(503, {"retry-after": str(BUSY)}))


async def _waits(bench: Bench, reply: Reply) -> None:
    outcomes = await bench.outcomes(server.says(reply))
    expect(outcomes, RETRY)
    for outcome in outcomes:
        near = outcome.after is not None and BUSY - 10 <= outcome.after <= BUSY + 1
        assert near, f"It was asked for {BUSY} seconds, and waits for {outcome.after}."


async def slows_down(bench: Bench) -> None:
    """429 without a time"""
    expect(await bench.outcomes(server.says(Reply(429))), RETRY)


async def blames_the_destination(bench: Bench) -> None:
    """403, 502, 503 and 504 are not the document's fault"""
    for status in (403, 502, 503, 504):
        expect(await bench.outcomes(server.says(Reply(status))), HELD, RETRY)


async def outlives_a_401(bench: Bench) -> None:
    """401 in mid-run: held, or renewed once and sent again"""
    async with Server(server.says(Reply(401))) as there:
        connector = bench.open(there.url)
        try:
            messages = bench.messages(connector)
            well, first = bench.well(messages), True

            async def once_401(asked: Asked, writer: asyncio.StreamWriter) -> None:
                nonlocal first
                refuse, first = first, False
                await (server.write(Reply(401), writer) if refuse else well(asked, writer))

            there.behaviour = once_401
            outcomes = await deliver(connector, messages)
            expect(outcomes, DELIVERED if there.tokens else HELD)
            assert there.tokens in (0, 2), f"The token was fetched {there.tokens} times, and 2 do."
            there.behaviour = server.says(Reply(401))
            expect(await deliver(connector, messages), HELD)
        finally:
            await connector.close()


async def retries_faults(bench: Bench) -> None:
    """other 5xx"""
    for status in (500, 501, 507, 599):
        expect(await bench.outcomes(server.says(Reply(status))), RETRY, HELD)


async def can_be_cancelled(bench: Bench) -> None:
    """a time-out, after which it goes on"""
    async with Server(server.silent) as there:
        connector = bench.open(there.url)
        try:
            messages = bench.messages(connector)
            with suppress(TimeoutError):
                expect(await deliver(connector, messages, 0.5), RETRY, HELD)
            there.behaviour = bench.well(messages)
            expect(await deliver(connector, messages, TIMEOUT), DELIVERED)
        finally:
            await connector.close()


async def ends_a_drip(bench: Bench) -> None:
    """an answer that drips"""
    try:
        await bench.outcomes(server.drips)
    except TimeoutError:
        raise AssertionError(f"It waits for the rest for more than {TIMEOUT:g} seconds.") from None


async def cuts_a_flood(bench: Bench) -> None:
    """an answer without end"""
    await _bounded(bench, server.floods)


async def unpacks_no_bomb(bench: Bench) -> None:
    """a small answer that unpacks to 50 MB"""
    await _bounded(bench, server.bombs)


async def _bounded(bench: Bench, behaviour: Behaviour) -> None:
    tracemalloc.start()
    try:
        await bench.outcomes(behaviour)
        _, peak = tracemalloc.get_traced_memory()
    except TimeoutError:
        raise AssertionError(f"It reads for more than {TIMEOUT:g} seconds.") from None
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"The answer took {peak // 1_000_000} MB of memory."


async def outlives_a_reset(bench: Bench) -> None:
    """the connection is cut in the middle of the answer"""
    kinds = (RETRY, HELD) if bench.trial.nothing_written else (RETRY, HELD, DELIVERED)
    expect(await bench.outcomes(server.resets), *kinds)


async def outlives_garbage(bench: Bench) -> None:
    """an answer that is no HTTP"""
    expect(await bench.outcomes(server.garbage), HELD, RETRY)


async def follows_nobody(bench: Bench) -> None:
    """a redirect, to the address of cloud metadata or elsewhere"""
    expect(await bench.outcomes(server.says(Reply(307, {"location": "http://169.254.169.254/latest/"}))), HELD)
    async with Server(server.says(Reply(302, {"location": "/elsewhere"}))) as there:
        connector = bench.open(there.url)
        try:
            expect(await deliver(connector, [bench.message(1)]), HELD)
        finally:
            await connector.close()
        assert not any(asked.path == "/elsewhere" for asked in there.asked), "It followed the redirect."


async def takes_no_page_for_an_answer(bench: Bench) -> None:
    """200 with a page of HTML"""
    reply = Reply(200, {"content-type": "text/html"}, b"<html>Please log in</html>")
    await _not_taken(bench, reply)


async def takes_no_broken_json(bench: Bench) -> None:
    """200 with JSON that is not whole"""
    await _not_taken(bench, Reply(200, {"content-type": "application/json"}, b'{"results": [{"id": "1"'))


async def _not_taken(bench: Bench, reply: Reply) -> None:
    kinds = (RETRY, HELD) if bench.trial.nothing_written else (RETRY, HELD, DELIVERED)
    expect(await bench.outcomes(server.says(reply)), *kinds)


async def shows_no_secret(bench: Bench) -> None:
    """what it was told is shown without secrets"""
    for outcome in await bench.outcomes(server.echoes):
        for secret in bench.secrets:
            assert secret not in outcome.detail, "A detail shows a secret of the settings."


async def lets_nothing_in(bench: Bench) -> None:
    """no value becomes a header, or leads to another path"""
    for evil in (f"{key_of(1)}/../../admin?x=1#y", f"{key_of(1)}\r\nx-evil: 1"):
        message = bench.message(1, like=evil)
        async with Server(bench.well([message])) as there:
            connector = bench.open(there.url)
            try:
                await deliver(connector, [message])
                await deliver(connector, [msgspec.structs.replace(message, event="deleted")])
            finally:
                await connector.close()
        for asked in there.asked:
            assert "x-evil" not in asked.headers, "A value became a header."
            led = "?x=1" in asked.path or "/admin" in asked.path
            assert not led, "A value led to another path or query: it needs the filter urlencode."


async def is_held_when_nobody_listens(bench: Bench) -> None:
    """an address where nobody listens"""
    connector = bench.open("http://127.0.0.1:9")
    try:
        expect(await deliver(connector, [bench.message(1)]), HELD)
    finally:
        await connector.close()


EVERY: tuple[Check, ...] = (delivers, delivers_again)
HTTP: tuple[Check, ...] = (
    *(deletes, sends_no_key_twice, takes_no_body, sees_that_nothing_was_written, refuses_conflicts),
    *(waits_for_seconds, waits_for_a_date, waits_for_a_busy_server, slows_down, blames_the_destination),
    *(outlives_a_401, retries_faults, can_be_cancelled, ends_a_drip, cuts_a_flood, unpacks_no_bomb),
    *(outlives_a_reset, outlives_garbage, follows_nobody, takes_no_page_for_an_answer, takes_no_broken_json),
    *(shows_no_secret, lets_nothing_in, is_held_when_nobody_listens),
)


def _named(asked: Asked, messages: Sequence[Message]) -> list[Message]:
    """The messages that a request is about, in its order. Their keys, or their ids, are in it."""
    text = asked.text
    places = {message.id: _place(text, message) for message in messages}
    return sorted((one for one in messages if places[one.id] >= 0), key=lambda one: places[one.id])


def _place(text: str, message: Message) -> int:
    body = message.content.decode()
    marks = [key_of(number) for number in range(1, 100) if key_of(number) in body] or [message.key]
    return text.find(marks[0])


def _filled(part: Any, texts: dict[str, str]) -> Any:
    if isinstance(part, str):
        for name, text in texts.items():
            part = part.replace(name, text)
        return part
    if isinstance(part, dict):
        return {name: _filled(value, texts) for name, value in part.items()}
    return [_filled(value, texts) for value in part] if isinstance(part, list | tuple) else part


def _texts_with(part: Any, word: str) -> set[str]:
    """The texts in it that hold `word`."""
    if isinstance(part, str):
        return {part} if word in part else set()
    parts = part.values() if hasattr(part, "values") else part if isinstance(part, list | tuple) else ()
    return {text for one in parts for text in _texts_with(one, word)}
