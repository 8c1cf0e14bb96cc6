"""Several dispatch workers on one Postgres store."""

import asyncio
import itertools
import json
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.dispatch.dispatcher import Dispatcher
from hub.errors import OutsideError
from hub.project import Limits
from hub.store import tables
from hub.store.database import Store, now
from hub.store.deliveries import PAGE, Deliveries
from hub.store.workers import LEASE, Evicted, Membership, living
from tests.integration.dispatching import Bench, reached, start_worker
from tests.receiver import Received, Receiver

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(database: str) -> Iterator[Bench]:
    store = Store(database.replace("postgresql://", "postgresql+psycopg://"))
    yield Bench(store)
    store.close()


def share(bench: Bench, count: int, script: Callable[[list[Dispatcher]], Awaitable[None]]) -> None:
    """Run the script while so many workers share the deliveries, then until all is settled."""

    async def run() -> None:
        workers = [bench.dispatcher() for _ in range(count)]
        finish = asyncio.Event()
        roles = [asyncio.ensure_future(worker.run(finish=finish)) for worker in workers]
        async with asyncio.timeout(30):
            while len({owner for owner in owners(bench) if owner}) < count or None in owners(bench):
                await asyncio.sleep(0.05)
        await script(workers)
        finish.set()
        await asyncio.wait_for(asyncio.gather(*roles), 60)

    asyncio.run(run())


def owners(bench: Bench) -> list[int | None]:
    return [row.worker_id for row in bench.rows(tables.dispatch_slice)]


def most_at_once(log: list[Received], delay: float) -> int:
    """How many requests were being answered at the same time at most."""
    times = sorted([(entry.at, 1) for entry in log] + [(entry.at + delay, -1) for entry in log])
    counts, at_once = [0], 0
    for _, step in times:
        at_once += step
        counts.append(at_once)
    return max(counts)


def test_workers_share_a_destinations_limit(bench: Bench, receiver: Receiver) -> None:
    """Three workers, three attempts at once: together three, never more, and each document once."""
    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=3))
    receiver.behave(delay=0.1)

    async def script(_: list[Dispatcher]) -> None:
        await asyncio.to_thread(bench.commit, *map(str, range(90)))
        await asyncio.to_thread(receiver.wait_for, 90)

    share(bench, 3, script)

    assert most_at_once(receiver.log(), 0.09) == 3
    assert sorted(entry.json["subject"] for entry in receiver.log()) == sorted(map(str, range(90)))


def test_a_held_destination_is_probed_by_one_worker_at_a_time(bench: Bench, receiver: Receiver) -> None:
    """It is down: all three hold it, and together they try it as often as one would; then all goes out."""
    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=3))

    async def script(workers: list[Dispatcher]) -> None:
        receiver.stop()
        await asyncio.to_thread(bench.commit, *map(str, range(60)))
        await asyncio.sleep(8)
        assert all(worker._workers["crm"].health.held for worker in workers)
        receiver.start()
        await asyncio.to_thread(receiver.wait_for, 60)

    share(bench, 3, script)

    held = [row for row in bench.rows(tables.attempt) if row.outcome == 5]
    assert 4 <= len(held) <= 3 + 5, "three on the way, then probes after 1, 2, 4 … seconds"
    assert bench.rows() == []
    assert {entry.json["subject"] for entry in receiver.log()} == set(map(str, range(60)))


def test_an_operators_wish_reaches_the_worker_that_has_the_document(bench: Bench, receiver: Receiver) -> None:
    """Parked ones of all slices are sent again once they are released."""
    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=3), on_park="hold")
    receiver.behave(status=422)

    async def script(_: list[Dispatcher]) -> None:
        await asyncio.to_thread(bench.commit, *map(str, range(12)))
        await asyncio.to_thread(receiver.wait_for, 12)
        receiver.behave()
        await asyncio.to_thread(bench.commit, *map(str, range(12)))
        while any(row.state != 1 for row in bench.rows() if row.version == 1):
            await asyncio.sleep(0.05)
        with bench.store.write() as connection:
            connection.execute(tables.delivery.update().where(tables.delivery.c.version == 1).values(state=3))
            bench.store.ring("dispatch", connection)
        await asyncio.to_thread(receiver.wait_for, 36)

    share(bench, 3, script)

    accepted = defaultdict(list)
    for entry in receiver.log():
        if entry.status == 200:
            accepted[entry.json["subject"]].append(entry.json["hubversion"])
    assert accepted == {str(key): [1, 2] for key in range(12)}


def test_a_released_one_that_another_worker_has_parked_again_stays_parked(bench: Bench) -> None:
    """It was read as released, and its slice and itself went to the other one before it was taken."""
    bench.subscribe("crm", {"path": "-"})
    bench.commit("a", "b")
    released, parked = (row.seq for row in bench.rows())
    with bench.store.write() as connection:
        connection.execute(tables.delivery.update().values(state=3))
        connection.execute(tables.delivery.update().where(tables.delivery.c.seq == parked).values(state=1))

    Deliveries(bench.store).take_released([released, parked], [])

    assert {row.seq: row.state for row in bench.rows()} == {released: 0, parked: 1}


def test_a_large_transaction_that_ends_late_is_found(bench: Bench, receiver: Receiver) -> None:
    """More rows than one look takes, their numbers lower than those of a commit that was delivered before it."""
    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=30))
    count = 2 * PAGE + 100

    async def script(_: list[Dispatcher]) -> None:
        keys = [f"late{number}" for number in range(count)]
        bench.versions.update(dict.fromkeys(keys, 1))
        with bench.store.engine.connect() as late:
            late.execute(sa.insert(tables.document), [bench._document(key, 1) for key in keys])
            late.execute(sa.insert(tables.delivery), [bench._delivery("crm", key, 1, now()) for key in keys])
            await asyncio.to_thread(bench.commit, "early")
            await asyncio.to_thread(receiver.wait_for, 1)
            late.commit()
            bench.store.ring("dispatch")
        await asyncio.to_thread(receiver.wait_for, 1 + count)

    share(bench, 2, script)

    assert len(receiver.log()) == 1 + count
    assert bench.rows() == []


def test_a_lost_worker_cannot_write(bench: Bench) -> None:
    """It is forgotten once its lease is over; its slices go to the other one, and its own writes are refused."""
    bench.subscribe("crm", {"path": "-"})
    lost, other = (Membership(bench.store, {"crm": 8}) for _ in range(2))
    lost.join()
    assert len(lost.renew().mine) == 32
    with bench.store.write() as connection:
        connection.exec_driver_sql("UPDATE dispatch_worker SET until = 0")
    other.join()

    assert len(other.renew().mine) == 32
    assert len(living(bench.store)) == 1
    with pytest.raises(Evicted), bench.store.write() as connection:
        lost.require(connection)
    with pytest.raises(Evicted):
        lost.renew()


def test_nothing_leaves_a_worker_that_wakes_up_after_its_lease(bench: Bench, tmp_path: Path) -> None:
    """It was stopped right before an attempt, and goes on with that, before any timer: so the attempt has to ask."""
    out = tmp_path / "out.jsonl"
    bench.subscribe("crm", {"path": str(out)})

    async def run() -> None:
        dispatcher = bench.dispatcher()
        role = asyncio.ensure_future(dispatcher.run())
        async with asyncio.timeout(20):
            while not (dispatcher._workers and dispatcher._workers["crm"].slices):
                await asyncio.sleep(0.01)
            worker = dispatcher._workers["crm"]
            worker.concurrency = 0
            await asyncio.to_thread(bench.commit, "a")
            while not worker._messages:
                await asyncio.sleep(0.01)
        worker.concurrency = 1
        worker.pump()
        time.sleep(LEASE)  # as a process that is stopped
        with pytest.raises(Evicted):
            await role

    asyncio.run(run())

    assert not out.exists() or not out.read_text()


@pytest.mark.parametrize("bell", ["hub_dispatch", "hub_workers"])
def test_a_worker_that_nobody_can_wake_begins_again(bench: Bench, bell: str) -> None:
    """One of its connections is lost: it ends, so that it opens them anew."""
    bench.subscribe("crm", {"path": "-"})
    end = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = :listen AND pid <> pg_backend_pid()"
    )

    async def run() -> None:
        role = asyncio.ensure_future(bench.dispatcher().run())
        async with asyncio.timeout(20):
            while not any(owners(bench)):
                await asyncio.sleep(0.05)
            with bench.store.write() as connection:
                assert connection.execute(end, {"listen": f'LISTEN "{bell}"'}).rowcount == 1
            with pytest.raises(OutsideError, match="The store is lost"):
                await role

    asyncio.run(run())


def test_a_rolling_change_of_workers(bench: Bench) -> None:
    """One more comes: the first gives up half of its slices, which the second gets; one goes: all are the other's."""
    first, second = (Membership(bench.store, {"crm": 8}) for _ in range(2))
    first.join()
    first.renew()
    second.join()
    assert second.renew().mine == frozenset()
    surplus = first.renew().surplus
    assert len(surplus) == 16
    first.release(surplus)
    assert second.renew().mine == surplus
    first.leave()
    assert len(second.renew().mine) == 32


class Load:
    """A thread that commits new versions of some documents again and again."""

    def __init__(self, bench: Bench, keys: int) -> None:
        self._bench = bench
        self._keys = [str(key) for key in range(keys)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._bench.commit(*self._keys)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.fault
def test_workers_are_killed_stopped_and_added_under_load(bench: Bench, tmp_path: Path) -> None:
    """One is killed -9, one stopped past its lease and woken, others come: every version in order, one body an id."""
    with Receiver(tmp_path, fail_percent=2) as receiver:
        bench.subscribe("crm", {"url": receiver.url})
        workers = [start_worker(bench.store, receiver.url, 12) for _ in range(3)]
        try:
            with Load(bench, 20):
                receiver.wait_for(200)
                workers[0].kill()
                time.sleep(2)
                workers[1].send_signal(signal.SIGSTOP)
                time.sleep(LEASE + 3)
                sent = len(receiver.log())
                workers[1].send_signal(signal.SIGCONT)
                workers.append(start_worker(bench.store, receiver.url, 12))
                receiver.wait_for(sent + 400)
            _settled(bench)
            assert [worker.poll() for worker in workers[1:]] == [None, None, None], "the zombie joined anew"
            asyncio.run(
                reached(lambda: len(living(bench.store)) == 3)
            )  # on a busy machine one may just have to join anew
        finally:
            _end(workers)
        log = receiver.log()

    _judge(bench, log)


def _settled(bench: Bench) -> None:
    end = time.monotonic() + 60
    while bench.rows():
        assert time.monotonic() < end, f"{len(bench.rows())} are left"
        time.sleep(0.1)


def _end(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def _judge(bench: Bench, log: list[Received]) -> None:
    accepted: dict[str, list[int]] = defaultdict(list)
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for entry in log:
        bodies[entry.headers["webhook-id"]].add(entry.body)
        if entry.status == 200:
            accepted[entry.json["subject"]].append(entry.json["hubversion"])
    assert all(len(same) == 1 for same in bodies.values())
    assert len(bodies) == sum(bench.versions.values())
    for key, versions in accepted.items():
        assert sorted(set(versions)) == list(range(1, bench.versions[key] + 1))
        # A killed worker may have had answers that it had not stored: those versions come again, one after the other.
        # One that a zombie sent late would stand alone.
        assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(versions)), f"{key}: {versions}"


def test_workers_forward_to_one_document_in_turn(bench: Bench, receiver: Receiver) -> None:
    """Two workers get answers that all forward one document: its versions go on, and arrive in their order."""
    bench.derive("lead_score", "crm")
    bench.subscribe("crm", {"url": receiver.url}, answers=("forward",))
    bench.subscribe("scores", {"url": receiver.url + "/scores"}, entity="lead_score")
    keys = [f"k{number:02}" for number in range(40)]
    for key in keys:
        answer = {"forward": [{"entity": "lead_score", "key": "42", "data": {"of": key}}]}
        receiver.behave("/hooks", containing=f'"subject":"{key}"', body=json.dumps(answer))

    async def script(_: list[Dispatcher]) -> None:
        await asyncio.to_thread(bench.commit, *keys)
        await asyncio.to_thread(receiver.wait_for, 80)

    share(bench, 2, script)

    scores = [entry.json for entry in receiver.log() if entry.path == "/hooks/scores"]
    assert [score["hubversion"] for score in scores] == list(range(1, 41))
    assert sorted(score["data"]["document"]["of"] for score in scores) == keys
    assert bench.rows() == []
