"""What a connector owes when the other side is not what it should be: hub/connector.py's obligations, one check each.

A check opens the connector against a server of its own, delivers, and says by assertion what must hold. An assertion's
text is what the developer reads.
"""

import asyncio
import re
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from email.utils import formatdate
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec

from hub.connector import Connector, ConnectorKind, NotTried, Reply, System, Trial, found_of, read_settings
from hub.delivery import Message, Outcome, OutcomeKind
from hub.kit import server
from hub.kit.server import Asked, Behaviour, Server, listening
from hub.project import Destination, Limits, Network

THIS_MACHINE = Network((ip_network("127.0.0.0/8"),))
NOWHERE = "http://127.0.0.1:9"  # where nobody listens
TIMEOUT = 15.0  # seconds of an attempt in the kit
STRANGER = 99  # the number of a document that nobody asked for
BRIEF = 2.0  # seconds of one where nobody answers
SHORT = 0.3  # seconds of one that is ended early
BUSY = 120  # seconds that a throttling server asks for
DETAIL = 500  # characters that a detail may have
MEMORY = 48_000_000  # bytes that an answer may cost
# Texts that would be code, or end a line, where they are not kept apart from it.
EVIL = ("'; DROP TABLE documents; --", '"}], "x": ["', "a@example.org\r\nBcc: b@example.org", "\0\u202e{{ 7*7 }}%s")
ANY_SYSTEM = System({}, lambda key: True)  # the settings alone say where to

DELIVERED, RETRY, REFUSED, HELD = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REFUSED, OutcomeKind.HELD
Check = Callable[["Bench"], Awaitable[None]]


class Bench:
    """A connector, what it is tried with, and a directory for it."""

    def __init__(self, name: str, kind: ConnectorKind[Any], trial: Trial, directory: Path) -> None:
        self.name = name
        self.trial = trial
        self._kind = kind
        self._directory = directory
        self.secrets = sorted(_words_with(trial.settings, "secret"))

    def open(self, url: str, timeout: float = TIMEOUT) -> Connector:
        """`url`: http://host:port of the other side."""
        return self._open(self.trial.settings, url, timeout)

    def _open(self, settings: Mapping[str, Any], url: str = NOWHERE, timeout: float = TIMEOUT) -> Connector:
        host, _, port = url.removeprefix("http://").partition(":")
        texts = {"{server}": url, "{host}": host, "{port}": port, "{directory}": str(self._directory)}
        destination = Destination("kit", self.name, settings=_filled(dict(settings), texts))
        return self._kind.open(read_settings(self._kind, destination), Limits(timeout=timeout, network=THIS_MACHINE))

    @asynccontextmanager
    async def working(self) -> AsyncIterator["Working"]:
        """The connector, with a system that does what it should. NotTried when there is none here."""
        if self.trial.answer:
            async with Server(server.silent) as there:
                connector = self.open(there.url)
                try:
                    yield Working(self, connector, there, lambda key: any(key in asked.text for asked in there.asked))
                finally:
                    await connector.close()
            return
        empty = Path(tempfile.mkdtemp(dir=self._directory))
        async with self.trial.system(empty) if self.trial.system else nullcontext(ANY_SYSTEM) as system:
            connector = self._open({**self.trial.settings, **system.settings})
            try:
                yield Working(self, connector, None, system.has)
            finally:
                await connector.close()

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
        """As the system answers when all is well."""
        assert self.trial.answer
        return self.answering(messages, self.trial.answer)

    def answering(self, messages: Sequence[Message], answer: Callable[[Sequence[Message], int], Reply]) -> Behaviour:
        """`answer` is of the messages that a request is about, and of how many requests about the first came before."""
        seen: list[Message] = []
        counts: dict[str, int] = {}

        async def behaviour(asked: Asked, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            # A request that names none is about those of the one before: it names them by the system's own ids.
            seen = _named(asked, messages) or seen
            before = counts.get(seen[0].id, 0) if seen else 0
            counts.update({message.id: before + 1 for message in seen})
            await server.write(answer(seen, before), writer)

        return behaviour


class Working:
    """A connector whose other side does what it should."""

    def __init__(self, bench: Bench, connector: Connector, there: Server | None, has: Callable[[str], bool]) -> None:
        self.batch = connector.batch
        self.has = has  # whether the document of that key has come, or a request with that id
        self._bench = bench
        self._connector = connector
        self._server = there

    @property
    def requests(self) -> int | None:
        """That have come; None when the other side counts none."""
        return len(self._server.asked) if self._server else None

    async def deliver(self, *messages: Message) -> Sequence[Outcome]:
        if self._server:
            self._server.behaviour = self._bench.well(messages)
        return await deliver(self._connector, messages)


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


def expect_no_secret(bench: Bench, outcomes: Sequence[Outcome]) -> None:
    shown = any(secret in outcome.detail for outcome in outcomes for secret in bench.secrets)
    assert not shown, "A detail shows a secret of the settings."


# Every connector


async def delivers(bench: Bench) -> None:
    """a batch is delivered, an outcome for each"""
    messages = [bench.message(number) for number in range(1, 6)]
    async with bench.working() as working:
        for start in range(0, len(messages), working.batch):
            expect(await working.deliver(*messages[start : start + working.batch]), DELIVERED)
        for message in messages:
            assert working.has(message.key), f"{message.key} is delivered, it says, and has not come."


async def delivers_again(bench: Bench) -> None:
    """the same message may come again"""
    async with bench.working() as working:
        for _ in range(2):
            expect(await working.deliver(bench.message(1)), DELIVERED)


async def deletes(bench: Bench) -> None:
    """a deleted document is deleted there, or refused"""
    async with bench.working() as working:
        numbers = range(1, min(3, working.batch) + 1)
        expect(await working.deliver(*(bench.message(number) for number in numbers)), DELIVERED)
        before = working.requests
        messages = [bench.message(number, "deleted") for number in numbers]
        outcomes = await working.deliver(*messages)
        expect(outcomes, DELIVERED, REFUSED)
        deleted = [one for one, outcome in zip(messages, outcomes, strict=True) if outcome.kind is DELIVERED]
        if deleted and before is not None:
            assert working.requests != before, "It says that it is deleted, and has sent nothing."
        if bench.trial.find:
            for message in deleted:
                _expect_id(bench.trial.find, message)
                sent = working.has(found_of(message))
                assert sent, (
                    f"{message.key} is deleted, it says, and no request has the id that was found for it. "
                    "Does `for` give what `name` is, and is there no entry before it in the `results` of `find`?"
                )


def _expect_id(find: Callable[[Sequence[Message]], Reply], message: Message) -> None:
    there = found_of(message).encode() in find([message]).body
    assert there, "The answer to `find` in `test:` lacks the kit's id. Write {{ found }} where the API gives its own."


async def outlives_evil_values(bench: Bench) -> None:
    """no value breaks it: what comes afterwards is delivered"""
    async with bench.working() as working:
        for evil in EVIL:
            await working.deliver(msgspec.structs.replace(bench.message(1, like=evil), key=evil))
        expect(await working.deliver(bench.message(2)), DELIVERED)
        assert working.has(key_of(2)), "It says that it is delivered, and it has not come."


# Those that reach something over the network


async def is_held_when_nobody_listens(bench: Bench) -> None:
    """an address where nobody listens"""
    await _expect_of_address(bench, NOWHERE, HELD)


async def waits_without_blocking(bench: Bench) -> None:
    """a server that says nothing holds up no other work, and the attempt can be ended"""
    async with listening(server.silent) as url:
        connector, began = bench.open(url, BRIEF), time.monotonic()
        try:
            with suppress(TimeoutError):
                expect(await deliver(connector, [bench.message(1)], SHORT), RETRY, HELD)
            took = time.monotonic() - began
            assert took < SHORT + 1, f"It blocked the event loop: ended after {SHORT} seconds, it took {took:.1f}."
        finally:
            await connector.close()


async def outlives_a_cut(bench: Bench) -> None:
    """the connection is cut as soon as it is made"""
    async with listening(server.cuts) as url:
        await _expect_of_address(bench, url, RETRY, HELD)


async def outlives_nonsense(bench: Bench) -> None:
    """an answer in no language that it speaks"""
    async with listening(server.garbage) as url:
        await _expect_of_address(bench, url, RETRY, HELD)


async def cuts_nonsense(bench: Bench) -> None:
    """nonsense without end"""
    async with listening(server.floods_nonsense) as url:
        await _bounded(lambda: _expect_of_address(bench, url, RETRY, HELD))


async def _expect_of_address(bench: Bench, url: str, *kinds: OutcomeKind) -> None:
    connector = bench.open(url, BRIEF)
    try:
        outcomes = await deliver(connector, [bench.message(1)])
    finally:
        await connector.close()
    expect(outcomes, *kinds)
    expect_no_secret(bench, outcomes)


# Those that speak HTTP


async def sends_no_key_twice(bench: Bench) -> None:
    """documents of one key don't share a request"""
    alone, twice = [bench.message(1)], [bench.message(1), bench.message(2, like=key_of(1))]
    most = 0
    for messages in (alone, twice):
        async with Server(bench.well(messages)) as there:
            connector = bench.open(there.url)
            try:
                if connector.batch < len(messages):
                    raise NotTried("it takes one message at a time")
                expect(await deliver(connector, messages), DELIVERED)
            finally:
                await connector.close()
            assert there.asked, "It is delivered, it says, and no request has come."
            counts = [asked.text.count(key_of(1)) for asked in there.asked]
            most = most or max(counts)
            assert max(counts) <= most, "Two documents of one key are in one request; systems refuse all of it."


async def leaves_others_alone(bench: Bench) -> None:
    """what is found of somebody else is not deleted"""
    if bench.trial.find is None:
        raise NotTried("it asks for no ids")
    stranger = bench.message(STRANGER, "deleted")
    answer = bench.trial.find([stranger])
    if stranger.key.encode() not in answer.body:
        raise NotTried("the answer to `find` in `test:` names no document, as {{ key }} would")
    async with Server(server.says(answer)) as there:
        connector = bench.open(there.url)
        try:
            await deliver(connector, [bench.message(1, "deleted")])
        finally:
            await connector.close()
        touched = any(found_of(stranger) in asked.text for asked in there.asked)
        assert not touched, "It deletes what is found, whosever it is: compare its name, as by `name` and `for`."


async def takes_no_body(bench: Bench) -> None:
    """2xx without a body"""
    expect(await bench.outcomes(server.says(Reply(204))), DELIVERED, RETRY)


async def sees_that_nothing_was_written(bench: Bench) -> None:
    """2xx with nothing written"""
    if bench.trial.nothing_written is None:
        raise NotTried("its system has no such answer")
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
    await _bounded(lambda: bench.outcomes(server.floods))


async def unpacks_no_bomb(bench: Bench) -> None:
    """a small answer that unpacks to 50 MB"""
    await _bounded(lambda: bench.outcomes(server.bombs))


async def _bounded(attempt: Callable[[], Awaitable[object]]) -> None:
    tracemalloc.start()
    try:
        await attempt()
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
    expect_no_secret(bench, await bench.outcomes(server.echoes))


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


EVERY: tuple[Check, ...] = (delivers, delivers_again, deletes, outlives_evil_values)
NETWORK: tuple[Check, ...] = (
    *(is_held_when_nobody_listens, waits_without_blocking, outlives_a_cut, outlives_nonsense, cuts_nonsense),
)
HTTP: tuple[Check, ...] = (
    *(leaves_others_alone, sends_no_key_twice, takes_no_body, sees_that_nothing_was_written, refuses_conflicts),
    *(waits_for_seconds, waits_for_a_date, waits_for_a_busy_server, slows_down, blames_the_destination),
    *(outlives_a_401, retries_faults, can_be_cancelled, ends_a_drip, cuts_a_flood, unpacks_no_bomb),
    *(outlives_a_reset, follows_nobody, takes_no_page_for_an_answer, takes_no_broken_json),
    *(shows_no_secret, lets_nothing_in),
)


def speaks_http(trial: Trial) -> bool:
    return trial.answer is not None


def reaches_network(trial: Trial) -> bool:
    return any(_words_with(trial.settings, place) for place in ("{server}", "{host}"))


def _named(asked: Asked, messages: Sequence[Message]) -> list[Message]:
    """The messages that a request is about, in its order. Their keys, or the system's own ids, are in it."""
    text = asked.text
    places = {message.id: _place(text, message) for message in messages}
    return sorted((one for one in messages if places[one.id] >= 0), key=lambda one: places[one.id])


def _place(text: str, message: Message) -> int:
    body = message.content.decode()
    marks = [key_of(number) for number in range(1, 100) if key_of(number) in body] or [message.key]
    place = text.find(marks[0])
    return place if place >= 0 else text.find(found_of(message))


def _filled(part: Any, texts: dict[str, str]) -> Any:
    if isinstance(part, str):
        if part == "{port}":
            return int(texts[part])
        for name, text in texts.items():
            part = part.replace(name, text)
        return part
    if isinstance(part, dict):
        return {name: _filled(value, texts) for name, value in part.items()}
    return [_filled(value, texts) for value in part] if isinstance(part, list | tuple) else part


def _words_with(part: Any, text: str) -> set[str]:
    """The words in it that hold `text`; a word ends where a URL's part does."""
    if isinstance(part, str):
        return {word for word in re.split(r"[/:@?&= ]", part) if text in word}
    parts = part.values() if hasattr(part, "values") else part if isinstance(part, list | tuple) else ()
    return {word for one in parts for word in _words_with(one, text)}
