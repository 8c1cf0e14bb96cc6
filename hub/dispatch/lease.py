"""This worker's share of the deliveries, where several dispatch: for as long as it renews its lease."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from hub.dispatch.slices import Slice
from hub.doorbell import heard
from hub.store.database import Store
from hub.store.workers import DOORBELL, LEASE, Evicted, Membership

RENEWAL = 1.5  # seconds between two renewals
MARGIN = 1.0  # seconds before its end from which nothing is on its way any more

T = TypeVar("T")


class Holder(Protocol):
    """Who works on what the lease is for."""

    def hold(self, slices: Set[Slice]) -> None:
        """These are this worker's from now on."""
        ...

    async def let_go(self, slices: Set[Slice]) -> None:
        """Begin nothing more of these, and return once all of what they had on the way is stored."""
        ...

    def lose(self) -> None:
        """The lease is over: others may have the slices already."""
        ...

    def broke(self, error: BaseException) -> None:
        """Nothing can go on."""
        ...


class Lease:
    def __init__(self, store: Store, membership: Membership, holder: Holder) -> None:
        self._store = store
        self._membership = membership
        self._holder = holder
        self._thread = ThreadPoolExecutor(1, "store-lease")  # of its own: it waits for no other statement
        self._leaving: set[Slice] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.TimerHandle | None = None
        self._until = 0.0  # as of time.monotonic

    def require(self) -> None:
        """Evicted when the lease is over. To be asked right before anything leaves.

        A process that was stopped goes on with what it was just about to do; the timer comes after that.
        """
        if time.monotonic() >= self._until:
            raise Evicted

    @property
    def changing(self) -> bool:
        """Not known yet, or slices are on their way to others."""
        return self._end is None or bool(self._leaving)

    async def run(self) -> None:
        """Renew it, take the slices that are free for this worker, and give up those that others should have.

        Raises Evicted when it was not renewed in time, and what the holder's `let_go` raises.
        """
        freed = asyncio.Event()
        with heard(self._store.listen(DOORBELL), freed.set, self._holder.broke):
            await self._call(self._membership.join)
            while True:
                freed.clear()
                await self._renew(time.monotonic() + LEASE - MARGIN)
                # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with a ring.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RENEWAL):
                        await freed.wait()

    async def _renew(self, until: float) -> None:
        """`until`: the end of what is renewed now, by time.monotonic: counted from before the store was asked."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()
        standing = await self._call(self._membership.renew)
        if self._end:
            self._end.cancel()
        self._until = until
        self._end = asyncio.get_running_loop().call_later(max(0.0, until - time.monotonic()), self._holder.lose)
        self._holder.hold(standing.mine - self._leaving)
        if surplus := standing.surplus - self._leaving:
            self._leaving |= surplus
            self._tasks.add(asyncio.get_running_loop().create_task(self._give_up(surplus)))

    async def _give_up(self, surplus: Set[Slice]) -> None:
        await self._holder.let_go(surplus)
        await self._call(self._membership.release, surplus)
        self._leaving -= surplus

    async def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def close(self) -> None:
        """Leave the slices to the others at once."""
        if self._end:
            self._end.cancel()
        for task in self._tasks:
            task.cancel()
        try:
            await self._call(self._membership.leave)
        finally:
            self._thread.shutdown()
