"""What a destination allows: rates of its limits, times that its answers name, quotas that they say are used up."""

import asyncio
import logging
import time
from collections.abc import Sequence

import pytest

from hub.delivery import Message, Outcome, OutcomeKind, State
from hub.dispatch.dispatcher import Dispatcher
from hub.project import Limits
from hub.store import tables
from hub.store.database import Store
from tests.integration.dispatching import DELIVERED, BulkBench, accept, reached

pytestmark = pytest.mark.integration

HOUR = 3600.0


@pytest.fixture
def bench(volatile_store: Store) -> BulkBench:
    return BulkBench(volatile_store)


def used_up(messages: Sequence[Message]) -> Sequence[Outcome]:
    """They are taken, and were the last for an hour."""
    return [Outcome(OutcomeKind.DELIVERED, after=HOUR)] * len(messages)


def asked_for_time(bench: BulkBench) -> bool:
    return any(row.probe_at > bench.clock.now() for row in bench.rows(tables.destination_state))


def test_a_used_up_quota_is_waited_for(bench: BulkBench, caplog: pytest.LogCaptureFixture) -> None:
    """It came with an accepted delivery: no other one is tried before its end, also after a restart."""

    bench.gather(batch_size=1)
    bench.bulk.answer = used_up
    caplog.set_level(logging.WARNING, "hub.dispatch")
    bench.commit("1", "2", "3")
    bench.run(clock=bench.clock)  # which does not wait for an hour
    assert bench.bulk.sizes == [1]
    assert [record.message for record in caplog.records] == ["destination asks for time"]
    bench.bulk.answer = accept

    async def script(_: Dispatcher) -> None:
        bench.clock.advance(HOUR - 60)
        await asyncio.to_thread(bench.commit, "4")
        await asyncio.sleep(0.1)
        assert bench.bulk.sizes == [1]
        assert {(row.state, row.attempts, row.due_at) for row in bench.rows()} == {(State.PENDING, 0, 0)}
        bench.clock.advance(61)
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert bench.bulk.sizes == [1, 1, 1, 1]


def test_a_time_past_the_expiry_parks(bench: BulkBench) -> None:
    """expire: 1h, and `Retry-After` names ten hours: the receiver is asked once, and after an hour it is parked."""

    bench.gather(expire=HOUR, retry=(5.0,))
    bench.bulk.answer = lambda messages: [Outcome(OutcomeKind.RETRY, "429", after=10 * HOUR)] * len(messages)

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1")
        await reached(lambda: asked_for_time(bench))

        def parked() -> bool:
            bench.clock.advance(360)
            return bool(bench.rows()[0].state == State.PARKED)

        await reached(parked, every=0.05)

    bench.run(script, clock=bench.clock)

    (row,) = bench.rows()
    assert (row.attempts, row.reason) == (0, "Not delivered within 1h.")
    assert bench.bulk.sizes == [1]


@pytest.mark.parametrize("volatile_store", ["postgres"], indirect=True)
def test_all_workers_heed_a_used_up_quota(bench: BulkBench) -> None:
    """One of them was told; the other one leaves the destination alone too."""

    bench.subscribe("crm", {"url": "http://crm.test"}, limits=Limits(concurrency=2), batch_size=1)
    bench.bulk.answer = used_up

    async def run() -> None:
        workers, finish = [bench.dispatcher(), bench.dispatcher()], asyncio.Event()
        roles = [asyncio.ensure_future(worker.run(finish=finish)) for worker in workers]
        await reached(lambda: all(worker._workers for worker in workers))
        await reached(lambda: all(len(worker._workers["crm"].slices) == 16 for worker in workers))
        await asyncio.to_thread(bench.commit, "1")
        await reached(lambda: all(worker._workers["crm"].health.paused_until for worker in workers))
        await asyncio.to_thread(bench.commit, *map(str, range(2, 40)))
        finish.set()
        await asyncio.wait_for(asyncio.gather(*roles), 30)

    asyncio.run(run())

    assert bench.bulk.sizes == [1]
    assert len(bench.waiting()) == 38


@pytest.mark.parametrize("volatile_store", ["postgres"], indirect=True)
def test_workers_share_a_rate(bench: BulkBench) -> None:
    """rate: 10/s of two workers: together a burst of ten, and then ten a second."""

    bench.subscribe("crm", {"url": "http://crm.test"}, limits=Limits(rate=(10, 1.0)), batch_size=1)
    times: list[float] = []

    def timed(messages: Sequence[Message]) -> Sequence[Outcome]:
        times.append(time.monotonic())
        return [DELIVERED] * len(messages)

    bench.bulk.answer = timed

    async def run() -> None:
        workers, finish = [bench.dispatcher(), bench.dispatcher()], asyncio.Event()
        roles = [asyncio.ensure_future(worker.run(finish=finish)) for worker in workers]
        await reached(lambda: all(worker._workers for worker in workers))
        await reached(lambda: all(len(worker._workers["crm"].slices) == 16 for worker in workers))
        await asyncio.to_thread(bench.commit, *map(str, range(30)))
        finish.set()
        await asyncio.wait_for(asyncio.gather(*roles), 30)

    asyncio.run(run())

    assert len(times) == 30
    for count, moment in enumerate(times, 1):
        assert count <= 10 + 10 * (moment - times[0]) + 1
