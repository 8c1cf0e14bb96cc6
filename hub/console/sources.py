"""What the console asks of the sources: where each log ends, and with it how long ago it stood where the hub is now."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from hub.console.waiting import Beside
from hub.operate.status import LogEnd

ANSWER_SECONDS = 3.0  # that a source has to answer
FRESH_SECONDS = 3.0  # that an answer is as good as a new one
LEVEL = 2048  # bytes: an idle server's own records, past what the hub can store a position of
REMEMBERED = 1000  # log ends

Ask = Callable[[str], LogEnd]  # of a stream, "source/stream"; it may take long, and it does not raise


class LogEnds:
    """The log ends of all streams: each asked for at most once in `FRESH_SECONDS`, all at one time."""

    def __init__(self, ask: Ask, streams: Iterable[str]) -> None:
        self._asked = {name: Beside(partial(ask, name)) for name in streams}
        self._found: dict[str, LogEnd] = {}
        self._fresh_until = 0.0  # time.monotonic()
        self._turn = asyncio.Lock()

    async def look(self) -> Mapping[str, LogEnd]:
        """By stream; one that does not answer in time is unreachable."""
        async with self._turn:
            if time.monotonic() >= self._fresh_until:
                answers = await asyncio.gather(*(self._answer(beside) for beside in self._asked.values()))
                self._found = dict(zip(self._asked, answers, strict=True))
                self._fresh_until = time.monotonic() + FRESH_SECONDS
            return self._found

    @staticmethod
    async def _answer(beside: Beside[LogEnd]) -> LogEnd:
        """One that is still being asked from an earlier look delays none after it."""
        try:
            return await beside.result(0 if beside.busy else ANSWER_SECONDS)
        except TimeoutError:
            return LogEnd(unreachable=f"The source did not answer within {ANSWER_SECONDS:g} seconds.")


class History:
    """Where one source's log ended, and when that was seen: a position becomes an age.

    A hub that is level has nothing to catch up with. Otherwise its lag began when the log was first seen past it; so it
    is never overstated, and understated by the time between two looks. Only the first look cannot know: there it is the
    time since the hub stored anything.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] = []  # (log end, when), both rising; those that the hub has passed are gone
        self._fresh = True

    def lag(self, end: int, position: int, stored_at: int, now: int) -> float:
        """Seconds. `stored_at`, when the position was stored, and `now`: microseconds since 1970."""
        since = min(now, stored_at or now) if self._fresh else now
        self._fresh = False
        if not self._seen or end > self._seen[-1][0]:
            self._seen.append((end, since))
        self._seen = [one for one in self._seen if one[0] - position > LEVEL]
        if len(self._seen) > REMEMBERED:
            del self._seen[1::2]  # a coarser one of the same reach
        return (now - self._seen[0][1]) / 1e6 if self._seen else 0.0
