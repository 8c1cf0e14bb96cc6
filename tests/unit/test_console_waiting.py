"""Blocking calls beside the event loop."""

import asyncio
import itertools
import threading

import pytest

from hub.console.waiting import Beside


def test_who_asks_meanwhile_shares_the_call() -> None:
    """Two at one time are one call; the next one is its own."""
    numbers = itertools.count(1)
    go = threading.Event()

    def call() -> int:
        go.wait(10)
        return next(numbers)

    async def ask() -> tuple[list[int], int]:
        beside = Beside(call)
        both = asyncio.gather(beside.result(10), beside.result(10))
        await asyncio.sleep(0)
        go.set()
        return await both, await beside.result(10)

    assert asyncio.run(ask()) == ([1, 1], 2)


def test_a_call_that_takes_too_long_goes_on() -> None:
    """Nobody waits for it longer than he said, no second one begins, and its result is kept."""
    calls: list[int] = []
    go = threading.Event()

    def call() -> int:
        calls.append(1)
        go.wait(10)
        return 7

    async def ask() -> tuple[int | None, int | None]:
        beside = Beside(call)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await beside.result(0.01)
        before = beside.last
        go.set()
        await beside.result(10)
        return before, beside.last

    assert asyncio.run(ask()) == (None, 7)
    assert calls == [1]


def test_an_error_is_raised_where_it_is_awaited() -> None:
    """And the call after it is a new one."""
    answers = iter([ValueError("no"), 3])

    def call() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask() -> int:
        beside = Beside(call)
        with pytest.raises(ValueError, match="no"):
            await beside.result(10)
        return await beside.result(10)

    assert asyncio.run(ask()) == 3
