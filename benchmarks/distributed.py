"""`make bench-distributed`: how capture and dispatch grow with their workers, on a Postgres store.

**Capture.** Four entities of one kind, in 1, 2 and 4 streams: three projects follow the same database, so that each has
the same row changes in its topics. Their connectors take the snapshot, then stand while the changes are committed, then
fill their topics one project after the other, then Kafka Connect ends. What remains is read by as many `hub run --role
capture` as there are streams, with every commit of the store on disk. Each turn begins with the store as it was after
the snapshot.

A lock on the store holds the workers back until each has its streams. What counts begins when each stream has stored
something and ends when the first has stored all: in between, all work. Process starts, imports, the group's first
assignments and the first groups of each stream are left out.

    connect_N_…     filling the topics: N connectors of one Kafka Connect worker
    capture_N_…     reading them: N streams, N workers
    …_rate          row changes a second
    …_cpu_us        microseconds of CPU a row change: of the workers; of the store's whole Postgres (`store_cpu_us`)
    …_store_us      microseconds that the store was at a statement or a commit, a row change, waiting included
    …_bytes         of a row change in the topics, and in the store with its indexes
    cpu_ratio_4     capture_4_cpu_us to capture_1_cpu_us, of the medians

**Dispatch.** The deliveries of what capture stored go to a receiver that takes 200 ms for each request, by N `hub run
--role dispatch`. The destination takes 8 attempts at once for each worker (limits are the destination's, not a
worker's). What counts begins when all of these are on their way. Then one worker and a receiver that answers at once.

    dispatch_N_rate     deliveries a second
    dispatch_ratio_N    dispatch_N_rate to dispatch_1_rate
    dispatch_alone_…    one worker, without the 200 ms

    …_busy          share of the machine's cores that was not idle meanwhile
    limited_by_cores    where that was above 90 %: there the machine sets the rate, not the hub

HUB_BENCH_SCALE=0.1 and HUB_BENCH_ALTERNATIONS=1 make a short run.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from kafka import KafkaConsumer, TopicPartition

from benchmarks.cpu import Busy, spent
from benchmarks.load import change_order_sets, make_order_sets
from benchmarks.receiver import Receiver
from cdc.connect import Connect as Connectors
from examples.postgres import LocalPostgres
from hub.changes import parse_lsn
from stack.connect import Connect
from stack.jars import require_jars
from stack.kafka import Broker

ALTERNATIONS = int(os.environ.get("HUB_BENCH_ALTERNATIONS", "3"))
SCALE = float(os.environ.get("HUB_BENCH_SCALE", "1"))
CASES = (1, 2, 4)  # streams and workers
ENTITIES = 4
ROWS = int(10_000 * SCALE)  # orders of each entity, with three lines
COMMITS = 2 * int(50_000 * SCALE)
CHANGES = 2 * COMMITS  # an order and its line
RECORDS = 2 * COMMITS + CHANGES  # BEGIN and END
ANSWER = 0.2  # seconds that the receiver takes
CONCURRENCY = 8  # of each dispatch worker
DISPATCH_SECONDS = max(5.0, 20 * SCALE)
SATURATED = 0.9  # busy share of the cores from which they are the limit
LIMIT = 600.0  # seconds for any one wait
LEGACY = "legacy"
SECRET = "password"

JVM = ("-Xms256m", "-XX:-UsePerfData", "-Djava.awt.headless=true")


class CompilingBroker(Broker):
    jvm = JVM  # with both of Java's compilers, as in production


class CompilingConnect(Connect):
    jvm = JVM


@dataclass(frozen=True)
class Machinery:
    """The servers that everything runs on."""

    directory: Path
    postgres: LocalPostgres
    broker: Broker
    connect: Connect

    def sql(self, database: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    @property
    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.postgres.data / "postmaster.pid").read_text().splitlines()[0]))


@contextmanager
def machinery(directory: Path) -> Iterator[Machinery]:
    settings = {"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "8GB"}
    with (
        LocalPostgres(directory / "postgres", "debian", settings) as postgres,
        CompilingBroker(require_jars(), directory / "kafka") as broker,
        CompilingConnect(require_jars(), directory / "connect", broker.bootstrap) as connect,
    ):
        (connect.secrets / SECRET).write_text("postgres")
        yield Machinery(directory, postgres, broker, connect)


class Case:
    """A project whose entities are in `count` streams, with its topics and its store."""

    def __init__(self, machinery: Machinery, count: int) -> None:
        self.machinery = machinery
        self.count = count
        self.name = f"bench{count}"
        self.directory = machinery.directory / self.name
        self.store = f"{self.name}_store"
        groups = [list(range(1, ENTITIES + 1))[first::count] for first in range(count)]
        self.streams = ["main", *(f"s{number}" for number in range(1, count))]
        self.groups = dict(zip(self.streams, groups, strict=True))
        self._kafka_connect = Connectors(machinery.connect.url)

    def write_project(self, receiver: str = "http://127.0.0.1:1/", concurrency: int = CONCURRENCY) -> None:
        kafka = {"bootstrap": self.machinery.broker.bootstrap, "connect": self.machinery.connect.url}
        source = {
            "url": self.machinery.postgres.url(LEGACY),
            "slot": self.name,
            "kafka": {**kafka, "topic": self.name},
            "streams": {name: [f"order{n}" for n in self.groups[name]] for name in self.streams if name != "main"},
        }
        store = self.machinery.postgres.url(self.store).replace("postgresql://", "postgresql+psycopg://", 1)
        limits = {"concurrency": concurrency}
        files: dict[str, Any] = {
            "hub.yaml": {
                "hub": self.name,
                "sources": {"main": source},
                "store": store,
                "network": {"allow": ["localhost"]},
            },
            "destinations/out.yaml": {"destination": "out", "connector": "http", "url": receiver, "limits": limits},
        }
        for n in range(1, ENTITIES + 1):
            lines = {"table": f"bench.lines{n}", "foreign_key": "order_id", "order_by": "number"}
            entity = {"entity": f"order{n}", "table": f"bench.orders{n}", "has_many": {"lines": lines}}
            files[f"entities/{n}.yaml"] = entity
            files[f"subscriptions/{n}.yaml"] = {"subscription": f"orders{n}", "entity": f"order{n}", "to": "out"}
        for name, content in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))

    def hub(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "hub", "--project", str(self.directory), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT).stdout

    def prepare(self) -> None:
        """Connectors, the snapshot in topics and store; both are left alone until they are filled and rewound."""
        self.write_project()
        self.machinery.sql("postgres", f"CREATE DATABASE {self.store}")
        self.machinery.sql(LEGACY, self.hub("source", "sql"))
        self.hub("source", "register", "--password", f"${{dir:{self.machinery.connect.secrets}:{SECRET}}}")
        self.hub("store", "upgrade")
        with workers(self, "capture", 1):
            until(lambda: self._taken_in() == ENTITIES * ROWS, "the snapshot is taken in")
        self.stop_connectors()
        self.machinery.sql("postgres", f"ALTER DATABASE {self.store} RENAME TO {self.name}_kept")

    def _taken_in(self) -> int:
        return int(self.machinery.sql(self.store, "SELECT count(*) FROM document")[0][0])

    def rewind(self, kept: str = "kept") -> None:
        """The store as it was when it was kept."""
        self.machinery.sql("postgres", f"DROP DATABASE IF EXISTS {self.store} WITH (FORCE)")
        self.machinery.sql("postgres", f"CREATE DATABASE {self.store} TEMPLATE {self.name}_{kept}")
        self.machinery.sql("postgres", "CHECKPOINT")

    def start_connectors(self) -> None:
        for connector in self._connectors():
            self._kafka_connect.resume(connector)

    def stop_connectors(self) -> None:
        for connector in self._connectors():
            self._kafka_connect.stop(connector)

    def _connectors(self) -> list[str]:
        return [f"hub-{self.name}-main-{stream}" for stream in self.streams]

    def topics(self) -> list[TopicPartition]:
        return [TopicPartition(self.name if s == "main" else f"{self.name}.{s}", 0) for s in self.streams]

    def topic_bytes(self) -> int:
        """That its topics' records have on the broker's disk."""
        folders = [self.machinery.broker.directory / "kafka" / f"{topic.topic}-0" for topic in self.topics()]
        return sum(file.stat().st_size for folder in folders for file in folder.glob("*.log"))

    def confirmed(self) -> int:
        """The LSN up to which all of its topics are full."""
        query = "SELECT min(confirmed_flush_lsn)::text FROM pg_replication_slots WHERE slot_name ~ %s"
        return parse_lsn(self.machinery.sql("postgres", query, f"^{self.name}(_|$)")[0][0])


@contextmanager
def workers(case: Case, role: str, count: int) -> Iterator[list[psutil.Process]]:
    """So many `hub run` of a role; asked to end, and killed when that fails."""
    command = [sys.executable, "-m", "hub", "--project", str(case.directory), "run", "--role", role]
    log = case.directory / f"{role}.log"
    with log.open("ab") as output:
        running = [psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) for _ in range(count)]
    try:
        yield list(running)
        if any(worker.poll() is not None for worker in running):
            sys.exit(f"A {role} worker ended by itself: {' / '.join(log.read_text().splitlines()[-3:])}")
    finally:
        for worker in running:
            worker.terminate()
        for worker in running:
            try:
                worker.wait(60)
            except psutil.TimeoutExpired:
                worker.kill()


def until(reached: Callable[[], bool], what: str, pause: float = 0.1) -> None:
    end = time.monotonic() + LIMIT
    while not reached():
        if time.monotonic() > end:
            sys.exit(f"{LIMIT:.0f} s passed, and not yet: {what}.")
        time.sleep(pause)


Figures = dict[str, float]


# Filling the topics


def fill(case: Case, fence: int) -> Figures:
    """Kafka Connect brings the case's topics what was committed up to `fence`."""
    machinery, topics = case.machinery, case.topics()
    consumer = KafkaConsumer(bootstrap_servers=machinery.broker.bootstrap)
    parts = {"connect": machinery.connect.process(), "broker": machinery.broker.process()}
    processes = {**{name: process for name, process in parts.items() if process}, "postgres": machinery.postmaster}

    def records() -> int:
        return int(sum(consumer.end_offsets(topics).values()))

    began, size = records(), case.topic_bytes()
    case.start_connectors()
    until(lambda: records() > began, "the first record is in a topic", 0.02)
    first, start, busy = records(), time.monotonic(), Busy()
    before = {name: spent([process]) for name, process in processes.items()}
    until(lambda: records() - began >= RECORDS, "the topics are full", 0.02)
    changes = CHANGES * (records() - first) / RECORDS
    figures = {"rate": changes / (time.monotonic() - start), "busy": busy.share()}
    figures |= {f"{name}_cpu_us": 1e6 * (spent([p]) - before[name]) / changes for name, p in processes.items()}
    until(lambda: case.confirmed() >= fence, "the topics are full")
    case.stop_connectors()
    consumer.close()
    return figures | {"bytes": (case.topic_bytes() - size) / CHANGES}


# Reading them


@dataclass(frozen=True)
class Sample:
    """What has been spent up to a moment."""

    at: float  # seconds
    documents: int
    workers: float  # seconds of CPU
    store: float  # of the whole server
    broker: float
    statements: float  # seconds that the store's sessions have been at work, commits included
    bytes: int  # that the store has on disk

    @classmethod
    def take(cls, case: Case, workers: Sequence[psutil.Process], store: psycopg.Connection[Any]) -> "Sample":
        broker = case.machinery.broker.process()
        assert broker
        return cls(
            time.monotonic(),
            _one(store, "SELECT count(*) FROM document"),
            spent(workers),
            spent([case.machinery.postmaster]),
            spent([broker]),
            float(_one(store, "SELECT active_time FROM pg_stat_database WHERE datname = current_database()")) / 1000,
            _one(store, "SELECT pg_database_size(current_database())"),
        )


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]


def read(case: Case, fence: int) -> Figures:
    """As many capture workers as streams read the topics into the store as it was after the snapshot."""
    case.write_project()
    case.rewind()
    start = case.machinery.sql(case.store, "SELECT max(position) FROM stream")[0][0]
    with (
        psycopg.connect(case.machinery.postgres.url(case.store), autocommit=True) as store,
        held_back(case) as release,
        workers(case, "capture", case.count) as running,
    ):
        until(lambda: all(len(one.children()) == 1 for one in running), "each worker has a stream")
        release()
        until(lambda: _one(store, "SELECT min(position) FROM stream") > start, "each stream has begun", 0.01)
        first, busy = Sample.take(case, running, store), Busy()
        until(lambda: _one(store, "SELECT max(position) FROM stream") >= fence, "a stream is through", 0.01)
        through, share = Sample.take(case, running, store), busy.share()
        until(lambda: _one(store, "SELECT min(position) FROM stream") >= fence, "each stream is through")
        time.sleep(2)  # the server's statistics come late
        end = Sample.take(case, running, store)
    if end.documents != ENTITIES * ROWS + COMMITS:
        sys.exit(f"{case.count} streams: {COMMITS} commits, but {end.documents - ENTITIES * ROWS} versions")
    return _costs(first, through, end) | {"busy": share}


def _costs(first: Sample, through: Sample, end: Sample) -> Figures:
    """While all streams worked, up to `through`; what the server says late, up to `end`."""
    changes = (through.documents - first.documents) * CHANGES / COMMITS
    all_changes = (end.documents - first.documents) * CHANGES / COMMITS
    return {
        "rate": changes / (through.at - first.at),
        "cpu_us": 1e6 * (through.workers - first.workers) / changes,
        "store_cpu_us": 1e6 * (through.store - first.store) / changes,
        "broker_cpu_us": 1e6 * (through.broker - first.broker) / changes,
        "store_us": 1e6 * (end.statements - first.statements) / all_changes,
        "store_bytes": (end.bytes - first.bytes) / all_changes,
    }


@contextmanager
def held_back(case: Case) -> Iterator[Callable[[], None]]:
    """Who wants to follow a stream waits, until what is given is called."""
    with psycopg.connect(case.machinery.postgres.url(case.store)) as connection:
        connection.execute("LOCK TABLE stream")
        yield connection.rollback


# Dispatch


def dispatch(case: Case, count: int, answer: float, concurrency: int) -> Figures:
    """`count` workers deliver what capture has stored to a receiver that takes `answer` seconds."""
    case.rewind("captured")
    with Receiver(answer) as receiver:
        case.write_project(receiver.url, concurrency)
        with workers(case, "dispatch", count) as running:
            if answer:
                until(lambda: receiver.counts()["most"] >= concurrency, "all attempts are on their way")
            else:
                until(lambda: receiver.counts()["answered"] > 0, "the first is delivered")
            time.sleep(2)
            begun, start, busy = receiver.counts()["answered"], time.monotonic(), Busy()
            cpu, store = spent(running), spent([case.machinery.postmaster])
            time.sleep(DISPATCH_SECONDS)
            done, seconds, share = receiver.counts()["answered"] - begun, time.monotonic() - start, busy.share()
            if receiver.counts()["most"] > concurrency:
                sys.exit(f"{count} workers: {receiver.counts()['most']} requests at once, more than {concurrency}")
            return {
                "rate": done / seconds,
                "cpu_us": 1e6 * (spent(running) - cpu) / done,
                "store_cpu_us": 1e6 * (spent([case.machinery.postmaster]) - store) / done,
                "busy": share,
            }


# All of it


def measure(machinery: Machinery) -> Iterator[tuple[str, Figures]]:
    """(what it is, the figures), as they come; a capture case comes once a turn."""
    cases = [Case(machinery, count) for count in CASES]
    machinery.sql("postgres", f"CREATE DATABASE {LEGACY}")
    make_order_sets(machinery.postgres.url(LEGACY), ENTITIES, ROWS)
    for case in cases:
        case.prepare()
    print(f"{ENTITIES * ROWS:,} orders are in the stores; {COMMITS:,} commits, {CHANGES:,} row changes", flush=True)
    fence = change_order_sets(machinery.postgres.url(LEGACY), ENTITIES, ROWS, COMMITS)
    for case in reversed(cases):  # Java has compiled what it needs by the time of the one whose figures count most
        yield f"connect_{case.count}", fill(case, fence)
    machinery.connect.stop()
    for _ in range(ALTERNATIONS):
        for case in cases:
            yield f"capture_{case.count}", read(case, fence)
    last = cases[-1]
    machinery.sql("postgres", f"ALTER DATABASE {last.store} RENAME TO {last.name}_captured")
    for count in CASES:
        yield f"dispatch_{count}", dispatch(last, count, ANSWER, count * CONCURRENCY)
    yield "dispatch_alone", dispatch(last, 1, 0.0, 4 * CONCURRENCY)


def line(name: str, figures: Figures) -> str:
    costs = ", ".join(
        f"{key.removesuffix('_us').replace('_', ' ')} {value:.0f}{' µs' if key.endswith('_us') else ''}"
        for key, value in figures.items()
        if key not in ("rate", "busy")
    )
    limit = ": the cores are the limit" if figures["busy"] > SATURATED else ""
    return f"{name:14} {figures['rate']:8,.0f}/s   {costs}   cores busy {figures['busy']:.0%}{limit}"


def summary(found: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """The last line: medians, their ratios, and where the cores set the limit."""
    medians = {
        name: {key: statistics.median(each[key] for each in turns) for key in turns[0]} for name, turns in found.items()
    }
    results: dict[str, Any] = {
        f"{name}_{key}": round(value, 3) for name, figures in medians.items() for key, value in figures.items()
    }
    capture = {count: medians[f"capture_{count}"] for count in CASES}
    for count in CASES[1:]:
        for key in ("cpu", "store_cpu"):
            ratio = capture[count][f"{key}_us"] / capture[1][f"{key}_us"]
            results[f"{key}_ratio_{count}"] = round(ratio, 3)
        ratio = medians[f"dispatch_{count}"]["rate"] / medians["dispatch_1"]["rate"]
        results[f"dispatch_ratio_{count}"] = round(ratio, 3)
    results["cores"] = psutil.cpu_count()
    results["limited_by_cores"] = [name for name, figures in medians.items() if figures["busy"] > SATURATED]
    return results


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="hub-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    found: dict[str, list[Figures]] = {}
    try:
        with machinery(directory) as servers:
            for name, figures in measure(servers):
                found.setdefault(name, []).append(figures)
                print(line(name, figures), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    results = summary(found)
    print(f"{results['cores']} cores, which were the limit of: {', '.join(results['limited_by_cores']) or 'nothing'}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
