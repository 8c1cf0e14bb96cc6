"""Time as a port, so that a test can move it."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        ...

    async def until(self, moment: int) -> None:
        """Return once `now()` is at least `moment`."""
        ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1000

    async def until(self, moment: int) -> None:
        while (left := moment - self.now()) > 0:
            await asyncio.sleep(min(left / 1_000_000, 3600.0))  # the machine may have been asleep or its clock set


class Alarms:
    """Calls at moments; one sleeping task for all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._earlier = asyncio.Event()

    def at(self, moment: int, call: Callable[[], None]) -> None:
        """Call once `clock.now()` is at least `moment`, microseconds since 1970."""
        heapq.heappush(self._heap, (moment, next(self._order), call))
        if self._heap[0][0] == moment:
            self._earlier.set()

    async def run(self) -> None:
        while True:
            self._earlier.clear()
            self._ring()
            await self._sleep()

    def _ring(self) -> None:
        while self._heap and self._heap[0][0] <= self._clock.now():
            heapq.heappop(self._heap)[2]()

    async def _sleep(self) -> None:
        """Until the first is due, or an earlier one came in."""
        if not self._heap:
            await self._earlier.wait()
            return
        waits = [
            asyncio.ensure_future(self._earlier.wait()),
            asyncio.ensure_future(self._clock.until(self._heap[0][0])),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
