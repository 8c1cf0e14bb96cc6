"""What a connector owes when the other side is not what it should be: hub/connector.py's obligations, one check each.

A check opens the connector against a server of its own, delivers, and says by assertion what must hold. An assertion's
text is what the developer reads.
"""

import asyncio
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from hub.connector import NotTried, Reply, Trial
from hub.delivery import Message, OutcomeKind
from hub.kit import server
from hub.kit.bench import (
    DELIVERED,
    HELD,
    NOWHERE,
    REFUSED,
    RETRY,
    TIMEOUT,
    Bench,
    Check,
    by_step,
    deliver,
    expect,
    expect_no_secret,
    expect_wait,
    key_of,
    listed,
    telling,
    words_with,
)
from hub.kit.server import Asked, Behaviour, Server, listening

BRIEF = 2.0  # seconds of an attempt where nobody answers
SHORT = 0.3  # seconds of one that is ended early
MEMORY = 48_000_000  # bytes that an answer may cost
# Texts that would be code, or end a line, where they are not kept apart from it.
EVIL = ("'; DROP TABLE documents; --", '"}], "x": ["', "a@example.org\r\nBcc: b@example.org", "\0\u202e{{ 7*7 }}%s")


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
    trial, most = bench.trial, 0
    answer = trial.answer
    assert answer
    finds = trial.find is not None and "upsert" in trial.finds

    def step(asked: Asked, about: Sequence[Message], before: int) -> Behaviour:
        # Their requests name them alike, so what comes after a find is known by its turn.
        return server.says(answer(about, (len(there.asked) - 1) % 2 if finds else before))

    for messages in (alone, twice):
        async with Server(by_step(messages, step)) as there:
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


async def keeps_to_quotas(bench: Bench) -> None:
    """an answer that leaves no request: nothing is sent until the time that it tells"""
    if not bench.trial.quotas:
        raise NotTried("no header tells its quota")
    for left, times in bench.trial.quotas.items():
        for header in times or (None,):
            told = telling(header) if header else {}
            await _expect_quiet(bench, {left: "0", **told}, header is not None)


async def _expect_quiet(bench: Bench, headers: Mapping[str, str], timed: bool) -> None:
    """`timed`: the headers tell when there will be requests again."""
    answer, asked_before = bench.trial.answer, 0
    assert answer
    messages = bench.message(1), bench.message(2)

    def spent(asked: Asked, about: Sequence[Message], before: int) -> Behaviour:
        reply = answer(about, before)
        return server.says(replace(reply, headers={**reply.headers, **headers}))

    async with Server(by_step(messages, spent)) as there:
        connector = bench.open(there.url)
        try:
            (outcome,) = await deliver(connector, messages[:1])
            asked_before, kind = len(there.asked), DELIVERED
            if outcome.kind is not DELIVERED or outcome.after is None:  # else dispatch sends nothing more until then
                (outcome,), kind = await deliver(connector, messages[1:]), RETRY
        finally:
            await connector.close()
    assert len(there.asked) == asked_before, f"An answer has `{listed(headers)}`, and it goes on sending."
    expect([outcome], kind)
    if timed:
        expect_wait([outcome], headers, "Read that header, in YAML by the `wait:` of `quota`.", kind)


EVERY: tuple[Check, ...] = (delivers, delivers_again, deletes, outlives_evil_values)
NETWORK: tuple[Check, ...] = (
    *(is_held_when_nobody_listens, waits_without_blocking, outlives_a_cut, outlives_nonsense, cuts_nonsense),
)
HTTP: tuple[Check, ...] = (
    *(sends_no_key_twice, outlives_a_401, can_be_cancelled, ends_a_drip, cuts_a_flood, unpacks_no_bomb, follows_nobody),
    keeps_to_quotas,
)


def speaks_http(trial: Trial) -> bool:
    return trial.answer is not None


def reaches_network(trial: Trial) -> bool:
    return any(words_with(trial.settings, place) for place in ("{server}", "{host}"))
