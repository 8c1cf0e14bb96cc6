"""A dispatch worker's lease, on a store that is not there."""

import asyncio
import os
from collections.abc import Set
from typing import cast

import pytest

from hub.dispatch.lease import Lease
from hub.dispatch.slices import Slice
from hub.store.database import Store
from hub.store.workers import Membership, Standing


class Bell:
    """A doorbell that the test rings."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        os.write(self._write, b"!")

    def clear(self) -> None:
        os.read(self._read, 65536)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Alone:
    """A store and a membership in which nobody else is."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.renewed = 0

    def listen(self, _: str) -> Bell:
        return self.bell

    def join(self) -> None: ...

    def renew(self) -> Standing:
        self.renewed += 1
        return Standing(frozenset(), frozenset())


class Nobody:
    """A holder that has nothing."""

    def hold(self, slices: Set[Slice]) -> None: ...

    async def let_go(self, slices: Set[Slice]) -> None: ...

    def lose(self) -> None: ...

    def broke(self, error: BaseException) -> None: ...


@pytest.mark.parametrize("steps", range(8))
def test_it_ends_when_it_is_cancelled_also_with_a_ring(steps: int) -> None:
    """Others leave at the same moment as this worker, and ring: so many steps of the loop before it is cancelled."""

    async def run() -> None:
        alone = Alone()
        lease = Lease(cast(Store, alone), cast(Membership, alone), Nobody())
        task = asyncio.ensure_future(lease.run())
        while not alone.renewed or lease.changing:
            await asyncio.sleep(0.001)
        alone.bell.ring()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=1.0)
        assert done, "it goes on"
        assert task.cancelled()

    asyncio.run(run())
