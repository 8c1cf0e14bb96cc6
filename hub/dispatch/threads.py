"""The store beside the event loop: what dispatch reads in one thread, what it writes in another, each in turn."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    def __init__(self) -> None:
        self._reads = ThreadPoolExecutor(1, "store-read")
        self._writes = ThreadPoolExecutor(1, "store-write")

    async def read(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reads, call, *arguments)

    async def write(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writes, call, *arguments)

    def start_writing(self) -> None:
        """A thread is scheduled as the one that started it: the writing one as the caller's is by now."""
        self._writes.submit(int).result()

    def close(self) -> None:
        """Return once what they were at is over."""
        self._reads.shutdown()
        self._writes.shutdown()
