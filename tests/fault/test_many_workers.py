"""Three streams, three capture workers and three dispatch workers, while workers are killed, stopped and added.

Random entities over tables that streams share, and an application that commits all the time. Each round kills a worker
of each role with -9, stops another one until its streams and slices are others', adds one of each, and wakes the
stopped ones up. Then the journal is what SQL said at each commit, and the receiver's log is the journal.

HUB_WORKERS_MINUTES has the rounds go on for so long; by default there is one.
"""

import itertools
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from stack.connect import Connect
from stack.kafka import Broker
from tests.conftest import MakeStore
from tests.fault.processes import Worker, until
from tests.oracle import journal
from tests.oracle.command import Project
from tests.oracle.compare import judge, judge_end, same
from tests.oracle.mode import Kafka, followed_by
from tests.oracle.source import Trial, trial
from tests.receiver import Received, Receiver

pytestmark = pytest.mark.fault

MINUTES = float(os.environ.get("HUB_WORKERS_MINUTES", "0"))
SEED = int(os.environ.get("HUB_WORKERS_SEED", "404"))
STREAMS = ("main", "second", "third")
PAUSE = 0.05  # seconds between two commits
# A worker that was stopped amid a store transaction finds that the store has ended its session meanwhile.
REFUSED = re.compile("Another process follows|The store cannot be used")
EVICTED = re.compile("did not renew its lease|The store is lost")
SUBSCRIPTION = """
subscription: every_{entity}
entity: {entity}
to: receiver
on: [created, updated, deleted, snapshot]
delivery: {{mode: every, retry: [200ms, 200ms, 500ms, 1s, 1s, 2s, 5s, 10s]}}
"""
DESTINATION = "destination: receiver\nconnector: http\nurl: {url}\nlimits: {{concurrency: 9, timeout: 10s}}\n"

Name = tuple[str, str, int]  # entity, key, version


@pytest.fixture(autouse=True)
def followed(broker: Broker, connect: Connect) -> Iterator[None]:
    with followed_by(Kafka(broker.bootstrap, connect.url, connect.secrets)):
        yield


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, fail_percent=3) as started:
        yield started


@pytest.mark.timeout(300 + 90 * MINUTES)
def test_workers_come_and_go_and_every_version_arrives_in_order(
    database: str, make_store: MakeStore, receiver: Receiver, tmp_path: Path
) -> None:
    store = make_store("postgres")
    with trial(database, SEED) as made:
        project = _project(made, store, receiver, tmp_path / "project")
        with _Crew(project) as crew:
            until(lambda: _streaming(store), "the snapshots are applied")
            with _writing(made):
                crew.rounds(60 * MINUTES)
            end = made.fence()
            until(lambda: journal.settled(store, end), "the last commit is stored")
            until(lambda: journal.select(store, "select count(*) from delivery") == [(0,)], "all is delivered")
            project.hub("verify")

        versions = journal.versions(store)
        findings = [*judge(made.history, versions), *judge_end(made.state(), versions)]
        assert not findings, "\n\n".join(map(str, findings[:10])) + f"\n\n{made.describe()}"
    _expect_log_is_journal(receiver.log(), versions)


def _project(made: Trial, store: str, receiver: Receiver, directory: Path) -> Project:
    """Every third entity in a stream; a subscription of each to the one receiver."""
    names = [entity.name for entity in made.entities]
    streams = {name: names[number :: len(STREAMS)] for number, name in enumerate(STREAMS) if name != "main"}
    project = made.project(directory, store, streams=streams)
    project.write({"destinations/receiver.yaml": DESTINATION.format(url=receiver.url)})
    project.write({f"subscriptions/{name}.yaml": SUBSCRIPTION.format(entity=name) for name in names})
    made.admit(project)
    shared = "select tablename from pg_publication_tables group by 1 having count(*) > 1"
    assert made.connection.execute(shared).fetchall(), "streams share tables"
    project.hub("store", "upgrade")
    return project


def _streaming(store: str) -> bool:
    return journal.select(store, "select count(*) from stream where state = 'streaming'") == [(len(STREAMS),)]


@contextmanager
def _writing(made: Trial) -> Iterator[None]:
    """The trial's writer commits, and the truth is noted after each commit, until this is left."""
    stop, faults = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            while not stop.wait(PAUSE):
                made.burst(1)
        except BaseException as fault:
            faults.append(fault)
            raise

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not faults, faults


class _Crew:
    """Three workers of each role; what becomes of them."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._random = Random(SEED)
        self._numbers = count(1)
        self.captures: list[Worker] = []
        self.dispatchers: list[Worker] = []

    def __enter__(self) -> "_Crew":
        for _ in range(3):
            self._add_capture()
            self._add_dispatch()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self.captures, *self.dispatchers):
            worker.kill()

    def _add_capture(self) -> None:
        name = f"capture{next(self._numbers)}"
        self.captures.append(Worker(self._project, name, "--worker", name))

    def _add_dispatch(self) -> None:
        self.dispatchers.append(Worker(self._project, f"dispatch{next(self._numbers)}", role="dispatch"))

    def rounds(self, seconds: float) -> None:
        """One, and more until so many seconds have passed."""
        end = time.monotonic() + seconds
        self._round()
        while time.monotonic() < end:
            self._round()

    def _round(self) -> None:
        until(self._shared, "each capture worker has a stream")
        until(lambda: all(map(self._slices, self.dispatchers)), "each dispatch worker has slices")
        time.sleep(self._random.uniform(0.5, 2.0))  # they are at work, each time at something else
        until(self._shared, "each capture worker has a stream")  # one that woke up may have lost its own just now
        for workers in (self.captures, self.dispatchers):
            self._random.shuffle(workers)
            workers.pop().kill()
        capture, dispatch = self.captures[0], self.dispatchers[0]
        streams, epochs = _streams(capture), self._epochs()
        capture.stop()
        dispatch.stop()
        self._add_capture()
        self._add_dispatch()
        until(lambda: all(self._epochs()[name] > epochs[name] for name in streams), "its streams are others'")
        until(lambda: not self._slices(dispatch), "its slices are others'")
        self._wake(capture, dispatch)

    def _wake(self, capture: Worker, dispatch: Worker) -> None:
        """Each goes on where it stopped, and is refused. A stream's process first: its worker would end it."""
        said = {worker: len(worker.said()) for worker in (capture, dispatch)}
        for follower in capture.followers():
            follower.resume()
        dispatch.wake()
        until(lambda: REFUSED.search(capture.said(), said[capture]), "the stopped capture is refused")
        until(lambda: EVICTED.search(dispatch.said(), said[dispatch]), "the stopped dispatch is evicted")
        capture.wake()

    def _shared(self) -> bool:
        """Each worker has a stream, and no stream two: one that wakes up goes on for a moment with what it had."""
        try:
            shares = [_streams(worker) for worker in self.captures]
        except psutil.NoSuchProcess:  # it has just ended
            return False
        return all(shares) and sorted(itertools.chain(*shares)) == sorted(f"main/{stream}" for stream in STREAMS)

    def _epochs(self) -> dict[str, int]:
        query = "select n.name, s.epoch from stream s join name n on n.id = s.stream_id"
        return {str(name): int(epoch) for name, epoch in journal.select(self._project.store, query)}

    def _slices(self, worker: Worker) -> int:
        """How many the store says are a dispatch worker's."""
        query = (
            "select count(*) from dispatch_slice s join dispatch_worker w on w.id = s.worker_id"
            f" where w.name like 'pid {worker.process.pid} on %'"
        )
        return int(journal.select(self._project.store, query)[0][0])


def _streams(capture: Worker) -> list[str]:
    """Those that are a worker's, as "source/stream"."""
    commands = [follower.cmdline() for follower in capture.followers()]
    return [command[command.index("--stream") + 1] for command in commands]


def _expect_log_is_journal(log: Sequence[Received], versions: Sequence[journal.Version]) -> None:
    """Every version arrived, with its body, in order; an id has one body, and a version one id."""
    written = {(one.entity, one.key, one.version): one.body for one in versions}
    bodies: dict[str, bytes] = {}
    ids: dict[Name, str] = {}
    accepted: dict[tuple[str, str], list[int]] = defaultdict(list)
    for received in log:
        id, name = received.headers["webhook-id"], _name(received.json)
        assert bodies.setdefault(id, received.body) == received.body
        assert ids.setdefault(name, id) == id
        if received.status == 200:
            accepted[name[:2]].append(name[2])
    assert len(set(ids.values())) == len(ids)
    assert ids.keys() == written.keys()
    assert [name for name, id in ids.items() if not _shows(bodies[id], written[name])] == []
    for document, order in accepted.items():
        assert set(order) == {version for *own, version in written if tuple(own) == document}
        # A worker that was killed or stopped may have had answers that it had not stored: those versions come again,
        # one after the other. One that a zombie sends late would stand alone.
        assert order[0] == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(order)), f"{document}: {order}"


def _name(event: Any) -> Name:
    return event["type"].rpartition(".")[0], event["subject"], event["hubversion"]


def _shows(body: bytes, document: str | None) -> bool:
    return same(journal.parse(body.decode())["data"]["document"], journal.parse(document or "null"))
