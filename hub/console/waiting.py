"""Blocking calls beside the event loop: one at a time of each kind, and nobody waits for one for long."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """One kind of blocking call. Whoever asks while it is under way gets its result with the others."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._running: asyncio.Future[T] | None = None
        self.last: T | None = None  # what it last returned, also to nobody

    @property
    def busy(self) -> bool:
        return self._running is not None and not self._running.done()

    async def result(self, seconds: float) -> T:
        """Raises what it raises; TimeoutError when it takes longer, and then it goes on."""
        running = self._running
        if running is None or running.done():
            running = self._running = _begin(self._call)
            running.add_done_callback(self._keep)
        return await asyncio.wait_for(asyncio.shield(running), seconds)

    def _keep(self, done: asyncio.Future[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.last = done.result()


def _begin(call: Callable[[], T]) -> asyncio.Future[T]:
    """In a thread of its own that does not keep the process: a call into a dead network may take very long to end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            _tell(loop, future.set_exception, error)
        else:
            _tell(loop, future.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return future


def _tell(loop: asyncio.AbstractEventLoop, how: Callable[[T], None], what: T) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(how, what)
