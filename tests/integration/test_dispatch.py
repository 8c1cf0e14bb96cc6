"""The dispatch role on a real store, to a receiver that is a process of its own."""

import asyncio
import json
import logging
import signal
import socket
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from hub.delivery import OutcomeKind, State
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.outcomes import SECOND
from hub.documents import Shape
from hub.project import Limits
from hub.store import tables
from hub.store.database import Store, now
from hub.store.deliveries import Changes, Deliveries, set_subscription_state
from hub.subscriptions import Subscription
from tests.integration.dispatching import Bench, MovableClock, reached, start_worker
from tests.receiver import Received, Receiver

pytestmark = pytest.mark.integration

STREAM = {
    "stream_id": 77, "position": 0, "state": "streaming", "run": 1, "catalogue": b"{}", "entities": b"{}",
    "problem": "", "seen_at": 0, "imaged": None, "cursor": -1, "epoch": 1,
}  # fmt: skip


@pytest.fixture
def bench(volatile_store: Store) -> Bench:
    return Bench(volatile_store)


def keyed(log: list[Received]) -> list[tuple[str, int]]:
    return [(entry.json["subject"], entry.json["hubversion"]) for entry in log]


def test_versions_of_a_document_arrive_in_order(bench: Bench, receiver: Receiver) -> None:
    """Eight at once, yet each document's versions one after the other; delivered ones leave the table."""

    bench.subscribe("crm", {"url": receiver.url})
    for _ in range(10):
        bench.commit("1", "2", "3", "4")
    bench.run()

    by_key: dict[str, list[int]] = defaultdict(list)
    for key, version in keyed(receiver.log()):
        by_key[key].append(version)
    assert by_key == {key: list(range(1, 11)) for key in "1234"}
    assert bench.rows() == []
    assert len(bench.rows(tables.attempt)) == 40


def test_a_ring_is_enough(bench: Bench, receiver: Receiver) -> None:
    """What is committed while it runs is delivered without anything being polled."""

    bench.subscribe("crm", {"url": receiver.url})

    async def script(_: Dispatcher) -> None:
        for count in range(1, 4):
            await asyncio.to_thread(bench.commit, "1")
            await asyncio.to_thread(receiver.wait_for, count)

    bench.run(script)

    assert keyed(receiver.log()) == [("1", 1), ("1", 2), ("1", 3)]


def test_a_stream_that_begins_later_is_rendered_by_its_own_columns(bench: Bench, receiver: Receiver) -> None:
    """`changed` names a list's element by its key, which a worker knows that started after the snapshot: so do all."""
    known, bench.shape = bench.shape, Shape({})
    bench.subscribe("crm", {"url": receiver.url}, body="{{ changed | join }}")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "before")
        await asyncio.to_thread(receiver.wait_for, 1)
        bench.shape = known
        with bench.store.write() as connection:
            connection.execute(tables.stream.insert().values(**STREAM))
        await asyncio.to_thread(bench.commit, "after")
        await asyncio.to_thread(receiver.wait_for, 2)

    compiled: list[Shape] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subscription, "compile", _noting(Subscription.compile, compiled))
        bench.run(script)

    assert compiled == [Shape({}), known]


def _noting(compile: Any, compiled: list[Shape]) -> Any:
    def noted(config: Any, shape: Shape) -> Any:
        compiled.append(shape)
        return compile(config, shape)

    return noted


def test_a_long_backlog_is_read_in_windows(bench: Bench, tmp_path: Path) -> None:
    """More deliveries than fit in memory at once, many of them of one document; none is missed, none doubled."""

    bench.subscribe("archive", {"path": str(tmp_path / "archive.jsonl")})
    keys = [str(key) for key in range(2500)]
    bench.commit(*keys, *["hot"] * 700, *keys)
    bench.run()

    lines = [json.loads(line) for line in (tmp_path / "archive.jsonl").read_bytes().splitlines()]
    by_key: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        by_key[line["key"]].append(line["version"])
    assert by_key.pop("hot") == list(range(1, 701))
    assert by_key == {key: [1, 2] for key in keys}


def test_retries_wait_by_the_schedule_and_hold_their_document(bench: Bench, receiver: Receiver) -> None:
    """A failing version is tried again before the next one, other documents pass; exhausted, it is parked."""

    bench.subscribe("crm", {"url": receiver.url}, retry=(50.0, 500.0))
    receiver.behave(status=500)
    clock = MovableClock()
    bench.commit("1")

    async def script(_: Dispatcher) -> None:
        for count, seconds in ((1, 51.0), (2, 501.0)):
            await asyncio.to_thread(receiver.wait_for, count)
            await reached(lambda: bench.rows()[0].attempts == count)  # noqa: B023
            clock.advance(seconds)
        await asyncio.to_thread(receiver.wait_for, 3)
        await reached(lambda: bench.rows()[0].state == State.PARKED)

    bench.run(script, clock=clock, jitter=lambda: 0.0)

    row = bench.rows()[0]
    assert (row.state, row.attempts, row.reason) == (1, 3, "Gave up after 3 attempts: 500 Internal Server Error")
    assert len({entry.headers["webhook-id"] for entry in receiver.log()}) == 1
    assert [attempt.number for attempt in bench.rows(tables.attempt)] == [1, 2, 3]


def test_a_parked_one_is_passed_and_superseded(bench: Bench, receiver: Receiver) -> None:
    """By default later versions go on, and the parked one is stale once a newer one is accepted."""

    bench.subscribe("crm", {"url": receiver.url})
    receiver.behave(status=422, body="no")
    bench.commit("1")
    bench.run()
    assert [(row.state, row.reason) for row in bench.rows()] == [(1, "Refused: 422 Unprocessable Entity: no")]
    receiver.behave()
    bench.commit("1")
    bench.run()

    assert [(row.version, row.state) for row in bench.rows()] == [(1, State.SUPERSEDED)]
    assert keyed(receiver.log()) == [("1", 1), ("1", 2)]


def test_a_parked_one_holds_its_document_where_that_is_asked_for(bench: Bench, receiver: Receiver) -> None:
    """on_park: hold; once released, it goes first."""

    bench.subscribe("crm", {"url": receiver.url}, on_park="hold")
    receiver.behave(status=422)
    bench.commit("1", "2")
    bench.run()
    receiver.behave()
    bench.commit("1")
    bench.run()
    assert len(receiver.log()) == 2
    release(bench, 1)
    bench.run()

    assert keyed(receiver.log())[2:] == [("1", 1), ("1", 2)]
    assert [row.key for row in bench.rows()] == ["2"]


@pytest.mark.parametrize(
    ("on_park", "received", "left"),
    [("continue", [1, 3], [(2, State.SUPERSEDED)]), ("hold", [1], [(2, State.PARKED), (3, State.PENDING)])],
)
def test_what_capture_parked_counts_at_once(
    bench: Bench, receiver: Receiver, on_park: str, received: list[int], left: list[tuple[int, State]]
) -> None:
    """Its `where` failed, while dispatch ran and nothing of the subscription was parked."""
    bench.subscribe("crm", {"url": receiver.url}, on_park=on_park)

    async def script(dispatcher: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1")
        await reached(lambda: bench.rows() == [])
        await asyncio.to_thread(bench.commit, "1", state=State.PARKED)
        await asyncio.to_thread(bench.commit, "1")

    bench.run(script)

    assert keyed(receiver.log()) == [("1", version) for version in received]
    assert [(row.version, row.state) for row in bench.rows()] == left


@pytest.mark.parametrize("mode", ["every", "latest"])
def test_what_capture_parked_behind_an_attempt_holds_what_follows(bench: Bench, receiver: Receiver, mode: str) -> None:
    """Version 1 is on its way, 2 comes parked, 3 waits for it; so too among more than one look or page takes."""
    bench.subscribe("crm", {"url": receiver.url}, on_park="hold", mode=mode)
    receiver.behave(delay=1.0, containing='"subject":"1"')

    async def script(dispatcher: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1")
        await asyncio.to_thread(receiver.wait_for, 1)
        await asyncio.to_thread(bench.commit, "1", state=State.PARKED)
        await asyncio.to_thread(bench.commit, "1", *(str(key) for key in range(100, 800)))
        await asyncio.to_thread(bench.commit, "900", state=State.PARKED)
        await asyncio.to_thread(bench.commit, "900")

    bench.run(script)

    held = [(row.key, row.version, row.state) for row in bench.rows()]
    assert held == [
        ("1", 2, State.PARKED),
        ("1", 3, State.PENDING),
        ("900", 1, State.PARKED),
        ("900", 2, State.PENDING),
    ]
    assert len(receiver.log()) == 701


@pytest.mark.parametrize("policy", [{}, {"mode": "latest"}, {"delay": 0.5}], ids=["every", "latest", "delay"])
@pytest.mark.parametrize("tried", [False, True], ids=["at its start", "behind a retry"])
def test_what_is_before_one_that_capture_parked_goes_out(
    bench: Bench, receiver: Receiver, tried: bool, policy: dict[str, Any]
) -> None:
    """Of one document 1 and 2 wait, 3 and 5 are parked, 4 and 6 follow; once 3 is discarded, 4 goes out too."""
    bench.subscribe("crm", {"url": receiver.url}, on_park="hold", retry=(1.0,), **policy)
    bench.commit("1")

    def commit_others() -> None:
        for state in (State.PENDING, State.PARKED) * 2:
            bench.commit("1", state=state)
        bench.commit("1")

    async def script(dispatcher: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        await asyncio.to_thread(commit_others)
        await asyncio.to_thread(receiver.behave)

    def taken() -> list[tuple[str, int]]:
        return keyed([entry for entry in receiver.log() if entry.status < 300])

    if tried:
        receiver.behave(status=500)
        bench.run(script)
    else:
        commit_others()
        bench.run()

    held = [(3, State.PARKED), (4, State.PENDING), (5, State.PARKED), (6, State.PENDING)]
    merged = policy and not (tried and "delay" in policy)
    assert taken() == [("1", 1), ("1", 2)][1 if merged else 0 :]
    assert [(row.version, row.state) for row in bench.rows()] == held

    async def discard(dispatcher: Dispatcher) -> None:
        await reached(lambda: any(route.queue.standing for route in dispatcher._routes.values()))
        with bench.store.write() as connection:
            connection.execute(tables.delivery.delete().where(tables.delivery.c.version == 3))
        bench.store.ring("dispatch")

    before = len(taken())
    bench.run(discard)
    assert taken()[before:] == [("1", 4)]
    assert [(row.version, row.state) for row in bench.rows()] == held[2:]


def test_what_is_superseded_holds_no_longer(bench: Bench, receiver: Receiver) -> None:
    """1 and 2 are parked, 3 waits; an operator retries 2 alone. Once it is accepted, 1 is stale, and 3 goes out."""
    bench.subscribe("crm", {"url": receiver.url}, on_park="hold")
    for state in (State.PARKED, State.PARKED, State.PENDING):
        bench.commit("1", state=state)

    async def script(dispatcher: Dispatcher) -> None:
        await reached(lambda: any(route.queue.standing for route in dispatcher._routes.values()))
        release(bench, 2)
        bench.store.ring("dispatch")
        await asyncio.to_thread(receiver.wait_for, 2)

    bench.run(script)

    assert keyed(receiver.log()) == [("1", 2), ("1", 3)]
    assert [(row.version, row.state) for row in bench.rows()] == [(1, State.SUPERSEDED)]


def release(bench: Bench, seq: int, reason: str | None = None) -> None:
    with bench.store.write() as connection:
        table = tables.delivery
        connection.execute(table.update().where(table.c.seq == seq).values(state=int(State.RELEASED), reason=reason))


def test_a_stale_one_is_sent_by_force_alone(bench: Bench, receiver: Receiver) -> None:
    """A released one older than what the receiver has is superseded, unless it is forced."""

    bench.subscribe("crm", {"url": receiver.url})
    receiver.behave(status=422)
    bench.commit("1")
    bench.run()
    receiver.behave()
    bench.commit("1")
    bench.run()
    release(bench, 1)
    bench.run()
    assert len(receiver.log()) == 2
    release(bench, 1, "forced")
    bench.run()

    assert keyed(receiver.log())[2:] == [("1", 1)]
    assert bench.rows() == []


def test_a_destination_that_is_down_is_held_and_nothing_parked(bench: Bench, tmp_path: Path) -> None:
    """Probes burn no attempt; when the receiver comes up, all goes out, in order."""

    receiver = Receiver(tmp_path, port=free_port())
    bench.subscribe("crm", {"url": f"http://127.0.0.1:{receiver.port}/hooks"}, retry=())
    bench.commit("1", "2", "1")

    async def script(_: Dispatcher) -> None:
        await reached(lambda: len(bench.rows(tables.destination_state)) == 1)
        held = bench.rows(tables.destination_state)[0]
        assert held.held_since > 0
        assert {(row.state, row.attempts) for row in bench.rows()} == {(0, 0)}
        receiver.start()
        await asyncio.to_thread(receiver.wait_for, 3)

    try:
        bench.run(script)
        assert sorted(keyed(receiver.log())) == [("1", 1), ("1", 2), ("2", 1)]
        assert bench.rows(tables.destination_state)[0].held_since == 0
    finally:
        receiver.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_document_that_fails_alone_is_refused(bench: Bench, receiver: Receiver) -> None:
    """502 for one document, while others are accepted: it is parked, and the destination stays well."""

    bench.subscribe("crm", {"url": receiver.url})
    receiver.behave(containing="poison", status=502)
    clock = MovableClock()

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "poison")
        for number in range(4):
            await asyncio.to_thread(bench.commit, f"good {number}")
            await reached(lambda: [row.key for row in bench.rows()] == ["poison"])
            clock.advance(6.0)
        await reached(lambda: bench.rows()[0].state == State.PARKED)

    bench.run(script, clock=clock)

    assert [row.key for row in bench.rows()] == ["poison"]
    assert bench.rows()[0].reason.startswith("Refused, while others are accepted: 502")


def test_a_slow_destination_holds_no_other(bench: Bench, receiver: Receiver) -> None:
    """Fifty deliveries go out while another destination has not answered its first."""

    bench.subscribe("slow", {"url": receiver.url + "/slow"}, limits=Limits(concurrency=1, timeout=2.0), retry=())
    bench.subscribe("quick", {"url": receiver.url + "/quick"})
    receiver.behave("/hooks/slow", mode="silent")
    for key in range(50):
        bench.commit(str(key))

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 51)

    started = time.monotonic()

    async def first(dispatcher: Dispatcher) -> None:
        await script(dispatcher)
        taken.append(time.monotonic() - started)
        stop_slow(bench)

    taken: list[float] = []
    bench.run(first)

    assert sum(entry.path.endswith("quick") for entry in receiver.log()) == 50
    assert taken[0] < 2.0


def stop_slow(bench: Bench) -> None:
    pause(bench, "slow")


def pause(bench: Bench, *names: str) -> None:
    with bench.store.write() as connection:
        for name in names:
            id = bench.store.name_id("subscription", name)
            set_subscription_state(bench.store, connection, id, "paused", "test")
    bench.store.ring("dispatch")


def test_dead_and_hostile_destinations_hold_no_other(bench: Bench, receiver: Receiver) -> None:
    """All that is for the healthy one is delivered while each of the others still has some of its own."""
    redirect = {"status": 302, "headers": {"location": "http://169.254.169.254/latest/meta-data/"}}
    others: dict[str, dict[str, Any]] = {mode: {"mode": mode} for mode in ("drip", "huge", "reset", "silent")}
    others |= {"moved": redirect, "failing": {"fail_percent": 100}}
    for name, behaviour in others.items():
        receiver.behave(f"/hooks/{name}", **behaviour)
        bench.subscribe(name, {"url": f"{receiver.url}/{name}"}, limits=Limits(concurrency=2, timeout=2.0))
    bench.subscribe("dead", {"url": f"http://127.0.0.1:{free_port()}/"})
    bench.subscribe("healthy", {"url": f"{receiver.url}/healthy"})
    waiting: set[str] = set()

    async def script(_: Dispatcher) -> None:
        for _version in range(10):
            await asyncio.to_thread(bench.commit, *map(str, range(20)))
        healthy = bench.store.name_id("subscription", "healthy")
        await reached(lambda: all(row.subscription_id != healthy for row in bench.rows()))
        waiting.update(bench.store.name(row.subscription_id) for row in bench.rows())
        pause(bench, *waiting)

    bench.run(script)

    arrived = keyed([one for one in receiver.log() if one.path == "/hooks/healthy"])
    assert sorted(arrived) == sorted((str(key), version) for key in range(20) for version in range(1, 11))
    # A body without end has begun as a 200, and is given up at once: that is as quick as it is long.
    assert waiting | {"huge"} == {*others, "dead"}


def test_gone_disables_the_subscription(bench: Bench, receiver: Receiver) -> None:
    """410: nothing more is sent until `hub resume`, and nothing is lost."""

    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=1))
    receiver.behave(status=410)
    bench.commit("1", "2")
    bench.run()
    assert len(receiver.log()) == 1
    assert [row.state for row in bench.rows(tables.subscription_state)] == ["disabled"]
    assert [(row.state, row.attempts) for row in bench.rows()] == [(0, 0), (0, 0)]
    receiver.behave()
    with bench.store.write() as connection:
        set_subscription_state(bench.store, connection, bench.store.name_id("subscription", "crm"), "active", "")
    bench.run()

    assert sorted(keyed(receiver.log())[1:]) == [("1", 1), ("2", 1)]


def test_a_paused_subscription_waits_and_goes_on(bench: Bench, receiver: Receiver) -> None:
    """Its queue is held too; another subscription is not."""

    bench.subscribe("crm", {"url": receiver.url})
    bench.subscribe("slow", {"url": receiver.url + "/slow"})
    stop_slow(bench)

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.commit, "1", "2")
        await asyncio.to_thread(receiver.wait_for, 2)
        with bench.store.write() as connection:
            set_subscription_state(bench.store, connection, bench.store.name_id("subscription", "slow"), "active", "")
        bench.store.ring("dispatch")
        await asyncio.to_thread(receiver.wait_for, 4)

    bench.run(script)

    assert [entry.path for entry in receiver.log()] == ["/hooks"] * 2 + ["/hooks/slow"] * 2


def test_retry_after_pauses_the_destination_in_full(bench: Bench, receiver: Receiver) -> None:
    """429 with a time: nothing goes there before it, no attempt is burnt."""

    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=1), retry=())
    receiver.behave(status=429, headers={"retry-after": "3600"})
    clock = MovableClock()
    bench.commit("1", "2")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        await reached(lambda: bench.rows()[0].due_at > 0)
        receiver.behave()
        clock.advance(3590)
        await asyncio.to_thread(bench.commit, "3")
        await reached(lambda: len(clock.waits) > 1)
        assert len(receiver.log()) == 1
        clock.advance(11)
        await asyncio.to_thread(receiver.wait_for, 4)

    bench.run(script, clock=clock)

    assert bench.rows() == []


def test_what_is_too_old_is_parked(bench: Bench, receiver: Receiver) -> None:
    """expire: the receiver is not asked."""

    bench.subscribe("crm", {"url": receiver.url}, expire=86400.0)
    bench.commit("1", created_at=now() - 2 * 86400 * SECOND)
    bench.commit("2")
    bench.run()

    assert [(row.key, row.state, row.reason) for row in bench.rows()] == [("1", 1, "Not delivered within 1d.")]
    assert keyed(receiver.log()) == [("2", 1)]


def test_a_failing_template_parks_that_delivery(bench: Bench, receiver: Receiver) -> None:
    """With its place; the next document goes on."""

    bench.subscribe("crm", {"url": receiver.url}, body={"half": "{{ 6 // (doc.n - 1) }}"})
    bench.commit("1")
    bench.commit("1")
    bench.run()

    row = bench.rows()[0]
    assert (row.version, row.state) == (1, State.SUPERSEDED)
    assert "half" in row.reason
    assert [entry.json for entry in receiver.log()] == [{"half": 6}]


def test_a_discarded_one_is_not_sent(bench: Bench, receiver: Receiver) -> None:
    """Also when dispatch has it in memory already."""

    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=1))
    receiver.behave(delay=0.5)
    bench.commit(*map(str, range(60)))

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        with bench.store.write() as connection:
            connection.execute(tables.delivery.delete().where(tables.delivery.c.seq > 40))
        receiver.behave()

    bench.run(script)

    assert len(receiver.log()) == 40


def test_late_commits_with_earlier_numbers_are_found(bench: Bench, receiver: Receiver) -> None:
    """On Postgres a row's number may be lower than one that was committed, and delivered, before it."""

    if bench.store.is_sqlite:
        pytest.skip("SQLite has one writer at a time: numbers come in the order of commits")
    bench.subscribe("crm", {"url": receiver.url})

    async def script(_: Dispatcher) -> None:
        with bench.store.engine.connect() as late:
            bench.versions["late"] = 1
            late.execute(tables.document.insert().values(**bench._document("late", 1)))
            late.execute(tables.delivery.insert().values(**bench._delivery("crm", "late", 1, now())))
            await asyncio.to_thread(bench.commit, "early")
            await asyncio.to_thread(receiver.wait_for, 1)
            late.commit()
        bench.store.ring("dispatch")
        await asyncio.to_thread(receiver.wait_for, 2)

    bench.run(script)

    assert keyed(receiver.log()) == [("early", 1), ("late", 1)]


def test_killed_dispatch_leaves_no_gap(tmp_path: Path) -> None:
    """Ten kills -9 under load: every version arrives, in order, and what is doubled has the same webhook-id."""

    bench = Bench(Store(f"sqlite:///{tmp_path}/hub.db", durable=False))
    with Receiver(tmp_path, fail_percent=5) as receiver:
        bench.subscribe("crm", {"url": receiver.url})
        open_work = 0
        for round in range(10):
            for _ in range(10):
                bench.commit(*map(str, range(15)))
            process = start_worker(bench.store, receiver.url)
            receiver.wait_for(1 + round * 40 + len(receiver.log()) % 7)
            open_work += bool(bench.rows())
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = start_worker(bench.store, receiver.url)
        end = time.monotonic() + 60
        while bench.rows():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        log = receiver.log()
    bench.store.close()

    assert open_work == 10
    firsts: dict[str, list[int]] = defaultdict(list)
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for entry in log:
        key, version = entry.json["subject"], entry.json["hubversion"]
        ids[key, version].add(entry.headers["webhook-id"])
        if entry.status == 200 and version not in firsts[key]:
            firsts[key].append(version)
    assert firsts == {str(key): list(range(1, 101)) for key in range(15)}
    assert all(len(same) == 1 for same in ids.values())
    assert len(log) > len(ids)


def test_batches_of_the_store_are_bounded(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are written in transactions that hold the lock shortly: the longest of 5,000 deliveries is measured."""

    if not bench.store.is_sqlite:
        pytest.skip("the lock is SQLite's")
    bench.subscribe("archive", {"path": str(tmp_path / "archive.jsonl")})
    bench.commit(*map(str, range(5000)))
    spans: list[float] = []
    write = Deliveries.write

    def timed(self: Deliveries, changes: Changes) -> None:
        started = time.thread_time()
        write(self, changes)
        spans.append(time.thread_time() - started)

    monkeypatch.setattr(Deliveries, "write", timed)

    async def run() -> None:
        finish = asyncio.Event()
        finish.set()
        await bench.dispatcher().run(finish=finish)

    asyncio.run(run())

    assert 10 <= len(spans) < 200
    assert max(spans) < 0.05


def test_a_held_backlog_is_bounded_by_its_age(bench: Bench, receiver: Receiver) -> None:
    """What a paused subscription has not sent within `expire` is parked, while it is paused."""

    bench.subscribe("slow", {"url": receiver.url}, expire=3600.0)
    stop_slow(bench)
    bench.commit("1")
    clock = MovableClock()

    async def script(_: Dispatcher) -> None:
        def parked() -> bool:
            clock.advance(360)  # a look that began before has set its next for later
            return bool(bench.rows()[0].state == State.PARKED)

        await reached(parked, every=0.05)

    bench.run(script, clock=clock)

    assert receiver.log() == []


def test_a_waiting_one_is_sent_at_once_when_released(bench: Bench, receiver: Receiver) -> None:
    """An operator need not wait for the schedule."""

    bench.subscribe("crm", {"url": receiver.url}, retry=(5000.0,))
    receiver.behave(status=500)
    bench.commit("1", "2")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 2)
        await reached(lambda: all(row.due_at for row in bench.rows()))
        receiver.behave()
        release(bench, 1)
        bench.store.ring("dispatch")
        await asyncio.to_thread(receiver.wait_for, 3)

    bench.run(script)

    assert keyed(receiver.log())[2:] == [("1", 1)]
    assert [row.key for row in bench.rows()] == ["2"]


def test_a_thousand_failing_documents_keep_no_other_back(bench: Bench, receiver: Receiver) -> None:
    """Documents that wait for a retry leave the window to the others, their later versions stay in the store."""

    bench.subscribe("crm", {"url": receiver.url}, retry=(5000.0,), limits=Limits(concurrency=32))
    receiver.behave(containing="fails", status=500)
    fails = [f"fails-{number}" for number in range(500)]
    for _ in range(6):
        bench.commit(*fails)
    bench.commit("good")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 501)

    bench.run(script)

    assert ("good", 1) in keyed(receiver.log())
    assert len(receiver.log()) == 501


def test_no_secret_gets_into_the_store_or_a_log(
    bench: Bench, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that echoes all it gets changes nothing; trace, `deliveries` and `--json` show what the store has."""

    secrets = ("hush-hush", "p4ssw0rd", "tok-abc", "k3y-value")
    url = receiver.url.replace("http://", "http://me:p4ssw0rd@") + "?key=k3y-value"
    settings = {"url": url, "secret": "hush-hush", "headers": {"authorization": "Bearer tok-abc"}}
    receiver.behave(status=422, body=" ".join(secrets))
    caplog.set_level(logging.DEBUG)
    bench.subscribe("crm", settings)
    bench.subscribe("lost", {**settings, "url": url.replace(str(receiver.port), "1")}, retry=())
    bench.commit("1")
    bench.run()

    attempts = bench.rows(tables.attempt)
    kept = repr([tuple(row) for row in (*attempts, *bench.rows(), *bench.rows(tables.destination_state))])
    said = caplog.text + repr([record.__dict__ for record in caplog.records])
    assert {row.outcome for row in attempts} == {OutcomeKind.REFUSED, OutcomeKind.HELD}
    assert "422 Unprocessable Entity: *** *** *** ***" in kept
    assert [secret for secret in secrets if secret in kept + said] == []
