"""Batches on a real store: what is gathered, what comes of each document, and who is to blame for a whole one."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from hub.delivery import Message, Outcome, OutcomeKind
from hub.dispatch.dispatcher import Dispatcher
from hub.store import tables
from hub.store.database import Store
from tests.integration.dispatching import DELIVERED, Answer, BulkBench, accept, reached

pytestmark = pytest.mark.integration


def all_or_none(fault: Outcome, *culprits: str) -> Answer:
    """With one of the culprits in it, nothing of a batch is taken."""

    def answer(messages: Sequence[Message]) -> Sequence[Outcome]:
        return [fault if any(one.key in culprits for one in messages) else DELIVERED] * len(messages)

    return answer


@pytest.fixture
def bench(volatile_store: Store) -> BulkBench:
    return BulkBench(volatile_store)


def test_a_batch_goes_when_it_is_full_or_has_waited(bench: BulkBench) -> None:
    """size: 3, wait: 60s; the fourth document waits for two more, and then goes alone."""

    bench.gather(batch_size=3, batch_wait=60.0)

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1", "2")
        await asyncio.to_thread(bench.commit, "3", "4")
        await reached(lambda: bench.waiting() == ["4"])
        bench.clock.advance(50)
        await asyncio.sleep(0.1)
        assert bench.bulk.sizes == [3]
        bench.clock.advance(11)
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert bench.bulk.sizes == [3, 1]


def test_the_end_does_not_wait_for_a_batch_to_fill(bench: BulkBench) -> None:
    """`hub run --until-idle`: what is being gathered goes at once."""

    bench.gather(batch_size=50, batch_wait=3600.0)
    bench.commit("1", "2", "3")
    bench.run()

    assert bench.bulk.sizes == [3]
    assert bench.rows() == []


def test_what_is_being_gathered_is_not_lost(bench: BulkBench) -> None:
    """Dispatch is stopped, and started again."""

    bench.gather(batch_size=50, batch_wait=3600.0)
    bench.commit("1", "2", "3")

    async def stopped() -> None:
        dispatcher, stop = bench.dispatcher(), asyncio.Event()
        role = asyncio.ensure_future(dispatcher.run(stop=stop))
        await reached(lambda: bool(dispatcher._workers) and not dispatcher._workers["crm"].idle)
        stop.set()
        await role

    asyncio.run(stopped())
    assert bench.bulk.calls == []
    bench.run()

    assert bench.bulk.sizes == [3]


def test_a_pause_holds_what_is_being_gathered(bench: BulkBench) -> None:
    """It is gathered anew, with what came meanwhile."""

    bench.gather(batch_size=3, batch_wait=60.0)

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1", "2")
        await asyncio.to_thread(bench.set_state, "paused")
        await asyncio.to_thread(bench.commit, "3")
        await asyncio.sleep(0.1)
        bench.clock.advance(100)
        await asyncio.sleep(0.1)
        assert bench.bulk.calls == []
        await asyncio.to_thread(bench.set_state, "active")
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert bench.bulk.sizes == [3]


def test_versions_of_a_document_share_no_batch(bench: BulkBench) -> None:
    """Each is in a later call than the one before it, with every version wanted."""

    bench.gather(batch_size=50)
    for _ in range(5):
        bench.commit("1", "2", "3")
    bench.run()

    assert all(max(Counter(key for key, _ in call).values()) == 1 for call in bench.bulk.calls)
    for key in "123":
        assert [version for name, version in bench.bulk.accepted if name == key] == [1, 2, 3, 4, 5]


def test_each_of_a_batch_has_its_own_fate(bench: BulkBench) -> None:
    """One is to be tried again and one is refused: the others are done with, and wait for neither."""

    bench.gather(batch_size=50, retry=(50.0,))
    fates = {"2": Outcome(OutcomeKind.RETRY, "busy"), "3": Outcome(OutcomeKind.REFUSED, "no such field")}
    bench.bulk.answer = lambda messages: [fates.get(one.key, DELIVERED) for one in messages]

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1", "2", "3", "4")
        await reached(lambda: bench.waiting() == ["2"])
        await asyncio.to_thread(bench.commit, "1", "4")
        await reached(lambda: len(bench.bulk.accepted) == 4)
        fates.clear()
        bench.clock.advance(60)
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert bench.bulk.accepted == [("1", 1), ("4", 1), ("1", 2), ("4", 2), ("2", 1)]
    assert [(row.key, row.state, row.reason) for row in bench.rows()] == [("3", 1, "Refused: no such field")]


def test_the_culprit_of_a_refused_batch_is_found(bench: BulkBench) -> None:
    """400 for all of 40: only it is parked, the others arrive once, and it takes two calls for each halving."""

    bench.gather()
    bench.bulk.answer = all_or_none(Outcome(OutcomeKind.REFUSED, "400", whole=True), "17")
    keys = [str(key) for key in range(40)]
    bench.commit(*keys)
    bench.run()

    assert [(row.key, row.state, row.attempts, row.reason) for row in bench.rows()] == [("17", 1, 1, "Refused: 400")]
    assert sorted(bench.bulk.accepted) == sorted((key, 1) for key in keys if key != "17")
    assert len(bench.bulk.calls) <= 1 + 2 * 6


def test_the_culprit_of_a_failing_batch_is_found(bench: BulkBench) -> None:
    """500 for all: the halves are retried, and go on to be halved when the schedule has ended."""

    bench.gather(retry=(5.0,))
    bench.bulk.answer = all_or_none(Outcome(OutcomeKind.RETRY, "500", whole=True), "17", "30")
    keys = [str(key) for key in range(40)]

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, *keys)
        await reached(lambda: all(row.due_at for row in bench.rows()))
        assert bench.bulk.sizes == [40]
        bench.clock.advance(6)
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert {row.key: row.reason for row in bench.rows()} == dict.fromkeys(("17", "30"), "Gave up after 2 attempts: 500")
    assert sorted(bench.bulk.accepted) == sorted((key, 1) for key in keys if key not in ("17", "30"))
    assert bench.bulk.sizes[:3] == [40, 20, 20]


def test_the_culprit_of_a_held_destination_is_found(bench: BulkBench) -> None:
    """502 for each batch that it is in looks like an outage; but others are accepted, so it alone is parked."""

    bench.gather()
    bench.bulk.answer = all_or_none(Outcome(OutcomeKind.HELD, "502"), "7")
    keys = [str(key) for key in range(10)]

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, *keys)
        for number in range(100):
            if not bench.waiting():
                break
            await asyncio.to_thread(bench.commit, f"more {number}")
            bench.clock.advance(3)
            await asyncio.sleep(0.05)

    bench.run(script, clock=bench.clock)

    assert [(row.key, row.reason) for row in bench.rows()] == [("7", "Refused, while others are accepted: 502")]
    assert {key for key, _ in bench.bulk.accepted} >= set(keys) - {"7"}
    assert max(Counter(bench.bulk.accepted).values()) == 1
    assert sum(("7", 1) in call for call in bench.bulk.calls) <= 8  # of ten, five, two or three, one; and as a probe


def test_after_an_outage_batches_are_large(bench: BulkBench) -> None:
    """What was on its way when the destination was held goes again in halves, not one by one."""

    bench.gather()
    bench.bulk.answer = lambda messages: [Outcome(OutcomeKind.HELD, "503")] * len(messages)

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, *map(str, range(300)))
        await reached(lambda: bool(bench.bulk.calls))
        bench.bulk.answer = accept
        for _ in range(10):
            bench.clock.advance(6)
            await asyncio.sleep(0.05)
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert len(bench.bulk.calls) < 20
    assert bench.rows() == []


def test_time_that_is_asked_for_is_all_the_batches(bench: BulkBench) -> None:
    """A quota that is used up until tomorrow: one call, no attempt burnt, and then all of it in one call again."""

    bench.gather(retry=())
    quota = Outcome(OutcomeKind.RETRY, "429 daily", after=36_000.0, whole=True)
    bench.bulk.answer = lambda messages: [quota] * len(messages)

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, *map(str, range(40)))
        await reached(lambda: len(bench.bulk.calls) == 1 and all(row.due_at for row in bench.rows()))
        bench.bulk.answer = accept
        bench.clock.advance(35_000)
        await asyncio.to_thread(bench.commit, "new")
        await asyncio.sleep(0.1)
        assert bench.bulk.sizes == [40]
        assert {row.attempts for row in bench.rows()} == {0}
        bench.clock.advance(1_001)
        await reached(lambda: bench.waiting() == [])

    bench.run(script, clock=bench.clock)

    assert sum(bench.bulk.sizes) == 81
    assert len(bench.bulk.calls) <= 3
    assert bench.rows() == []


@pytest.mark.parametrize("volatile_store", ["postgres"], indirect=True)
def test_what_is_being_gathered_moves_with_its_slices(bench: BulkBench) -> None:
    """A second worker comes while a first one gathers: each document is sent once, by whoever has it."""

    bench.subscribe("crm", {"url": "http://crm.test"}, batch_size=50, batch_wait=3600.0)
    keys = [str(key) for key in range(40)]

    async def run() -> None:
        finish = [asyncio.Event(), asyncio.Event()]
        first, second = bench.dispatcher(), bench.dispatcher()
        roles = [asyncio.ensure_future(first.run(finish=finish[0]))]
        await asyncio.to_thread(bench.commit, *keys)
        await reached(lambda: bool(first._workers) and len(first._workers["crm"].slices) == 32)
        roles.append(asyncio.ensure_future(second.run(finish=finish[1])))
        await reached(lambda: bool(second._workers) and len(second._workers["crm"].slices) == 16)
        await asyncio.sleep(0.2)
        assert bench.bulk.calls == []
        for one in finish:
            one.set()
        await asyncio.wait_for(asyncio.gather(*roles), 30)

    asyncio.run(run())

    assert sorted(bench.bulk.accepted) == sorted((key, 1) for key in keys)
    assert bench.rows() == []
    assert len(bench.bulk.calls) <= 4


def test_each_attempt_is_noted(bench: BulkBench) -> None:
    """A call of many is an attempt of each: `hub trace` shows them as ever."""

    bench.gather(batch_size=50)
    bench.commit("1", "2", "3")
    bench.run()

    assert sorted((row.key, row.number) for row in bench.rows(tables.attempt)) == [("1", 1), ("2", 1), ("3", 1)]
