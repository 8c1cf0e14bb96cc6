"""`make bench-destinations`: what a healthy destination notices of five others that are slow, dead, failing or hostile.

50 commits a second, each of one order with ten lines, for HUB_BENCH_SECONDS (120) after a warm-up. `hub run` delivers
them first to a healthy receiver alone, then in a project of its own to six at once (benchmarks/receivers.py): healthy,
2 s slow, dead, failing at random, with a quota, hostile. Each subscription takes every version, with the limits and
retries that are the defaults. HUB_BENCH_STORE=postgres puts the stores on a Postgres of their own, instead of SQLite.

    p50_ms, p99_ms …    from the commit, which stamps its row, to the arrival at the healthy receiver
    slot_worst, _end    bytes of the source's log that the slot has not confirmed: of a look a second, and at the end
    …_mb_30, _end       resident memory of the hub (all its processes) and of its dispatch, 30 s after the warm-up and
                        at the end; …_slope is MB a minute between, by least squares
    cores               that the hub kept busy
    busy                share of the machine's cores that was not idle meanwhile, whoever used it
    ratio_p99           among six to alone

Then nothing may be lost, or the target fails: each commit made a version, and of each destination every version either
is in the receiver's log as accepted or waits in the store; and no order's versions came in another order.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import sqlalchemy as sa

from benchmarks.cpu import Busy, spent
from benchmarks.distributed import until
from benchmarks.load import STAMP, commits_per_second, make_orders
from benchmarks.receivers import SORTS, Inbox, Noted, nobody
from examples.postgres import LocalPostgres
from hub.delivery import State
from hub.store import tables
from hub.store.database import Store

SECONDS = int(os.environ.get("HUB_BENCH_SECONDS", "120"))
STORE = os.environ.get("HUB_BENCH_STORE", "sqlite")
RATE = 50  # commits a second
WARM_UP = min(30, 3 * SECONDS)  # seconds: Java compiles, and what is behind the first window fills
SETTLING = min(30, SECONDS // 4)  # seconds until memory is looked at first
ORDERS = 2_000
LIMIT = 180.0  # seconds for any one wait
LEGACY = "legacy"
HEALTHY = "healthy"
MB = 1_000_000

Version = tuple[str, int]  # of an order: key and number


@dataclass(frozen=True)
class Sample:
    """One look."""

    at: float  # seconds
    slot: int  # bytes not confirmed
    hub: int  # bytes of resident memory
    dispatch: int


@dataclass(frozen=True)
class Outcome:
    """What became of the versions at one destination."""

    state: str  # as `hub status` says it
    accepted: int  # versions that the receiver took
    doubled: int  # that it took once more
    pending: int
    parked: int
    attempts: int
    lost: int  # neither accepted nor in the store
    overtaken: int  # accepted after a later version of the same order


Figures = dict[str, float]


class Case:
    """A project with so many destinations, and its store."""

    def __init__(self, name: str, urls: Mapping[str, str], directory: Path, source: str, store: str) -> None:
        self.name = name
        self.urls = urls
        self.directory = directory / name
        self.source = source
        self.store = store

    def write_project(self) -> None:
        lines = {"table": "bench.lines", "foreign_key": "order_id", "order_by": "number"}
        files: dict[str, Any] = {
            "hub.yaml": {
                "hub": self.name,
                "sources": {"main": {"url": self.source, "slot": self.name}},
                "store": self.store,
                "console": {"listen": "127.0.0.1:0"},
                "network": {"allow": ["localhost"]},
            },
            "entities/order.yaml": {"entity": "order", "table": "bench.orders", "has_many": {"lines": lines}},
        }
        for name, url in self.urls.items():
            files[f"destinations/{name}.yaml"] = {"destination": name, "connector": "http", "url": url}
            files[f"subscriptions/{name}.yaml"] = {
                "subscription": name,
                "entity": "order",
                "to": name,
                "on": ["updated"],  # the snapshot is delivered to nobody
            }
        for file, content in files.items():
            path = self.directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))

    def hub(self, *arguments: str, codes: Sequence[int] = (0,)) -> str:
        command = [sys.executable, "-m", "hub", "--project", str(self.directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode not in codes:
            sys.exit(f"hub {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.source, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def running(self) -> Iterator[psutil.Process]:
        log = self.directory / "run.log"
        with log.open("ab") as output:
            command = [sys.executable, "-m", "hub", "--project", str(self.directory), "run"]
            process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process
            if process.poll() is not None:
                sys.exit(f"The hub ended by itself: {' / '.join(log.read_text().splitlines()[-3:])}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def sample(self, run: psutil.Process) -> Sample:
        query = (
            "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint "
            f"FROM pg_replication_slots WHERE slot_name = '{self.name}'"
        )
        sizes = {one.pid: one.memory_info().rss for one in (run, *run.children(recursive=True))}
        dispatch = next(one.pid for one in run.children() if "dispatch" in one.cmdline())
        return Sample(time.monotonic(), self.sql(query)[0][0], sum(sizes.values()), sizes[dispatch])

    def states(self) -> dict[str, str]:
        """By destination: how `hub status` says that it stands."""
        found = json.loads(self.hub("status", "--json", codes=(0, 1)))["destinations"]
        said = {one["destination"]: f"{'held: ' if one['held_since'] else ''}{one['reason']}" for one in found}
        return {name: said.get(name) or "well" for name in self.urls}


# The load, and what is seen meanwhile


def measure(case: Case, healthy: Inbox) -> tuple[Figures, dict[str, str]]:
    """Figures of the load after the warm-up, and how the destinations stand at its end."""
    case.write_project()
    case.sql(case.hub("source", "sql"))
    case.hub("run", "--until-idle")  # the snapshot
    with case.running() as run:
        commits_per_second(case.source, RATE, WARM_UP * RATE, STAMP)
        begun, busy, cpu = time.time(), Busy(), spent([run])
        samples = list(watched(case, run))
        seconds, share, cores = time.time() - begun, busy.share(), spent([run]) - cpu
        commits = (WARM_UP + SECONDS) * RATE
        until(lambda: len({(one.key, one.version) for one in healthy.noted()}) >= commits, "the healthy one has all")
        time.sleep(2)  # for the slot to be told
        end, states = case.sample(run), case.states()
    late = sorted(1000 * (one.received - one.committed) for one in healthy.noted() if one.committed >= begun)
    settled = [one for one in samples if one.at >= samples[0].at + SETTLING]
    return {
        "p50_ms": late[len(late) // 2],
        "p99_ms": late[int(len(late) * 0.99)],
        "max_ms": late[-1],
        "slot_worst": max(one.slot for one in samples),
        "slot_end": end.slot,
        **memory("hub", [(one.at, one.hub) for one in settled]),
        **memory("dispatch", [(one.at, one.dispatch) for one in settled]),
        "cores": cores / seconds,
        "busy": share,
    }, states


def watched(case: Case, run: psutil.Process) -> Iterator[Sample]:
    """A sample a second while the commits come."""
    load = threading.Thread(target=commits_per_second, args=(case.source, RATE, SECONDS * RATE, STAMP))
    load.start()
    while load.is_alive():
        yield case.sample(run)
        load.join(1.0)


def memory(name: str, sizes: Sequence[tuple[float, int]]) -> Figures:
    """(seconds, bytes) as they were first and last, and MB a minute between."""
    slope = statistics.linear_regression([at for at, _ in sizes], [size for _, size in sizes]).slope
    return {
        f"{name}_mb_30": sizes[0][1] / MB,
        f"{name}_mb_end": sizes[-1][1] / MB,
        f"{name}_mb_slope": slope * 60 / MB,
    }


# What became of each version


def _journal(case: Case) -> set[Version]:
    store = _open(case)
    with store.read() as connection:
        rows = connection.execute(sa.select(tables.document.c.key, tables.document.c.version)).all()
    store.close()
    return {(row.key, row.version) for row in rows}


def _open(case: Case) -> Store:
    url = sa.make_url(case.store)
    return Store(
        f"sqlite:///{case.directory / str(url.database)}" if url.get_backend_name() == "sqlite" else case.store
    )


def outcome(case: Case, name: str, state: str, noted: Sequence[Noted]) -> Outcome:
    """The receiver's log against the journal and what waits; the hub has ended."""
    store = _open(case)
    id = store.name_id("subscription", name)
    delivery, attempt = tables.delivery.c, tables.attempt.c
    with store.read() as connection:
        waiting = connection.execute(
            sa.select(delivery.key, delivery.version, delivery.state).where(delivery.subscription_id == id)
        ).all()
        attempts = connection.execute(sa.select(sa.func.count()).where(attempt.subscription_id == id)).scalar_one()
    store.close()
    states = {(row.key, row.version): row.state for row in waiting}
    accepted = Counter((one.key, one.version) for one in noted if one.accepted)
    changed = {(key, version) for key, version in _journal(case) if version > 1}
    counts = Counter(states.values())
    return Outcome(
        state=state,
        accepted=len(accepted),
        doubled=accepted.total() - len(accepted),
        pending=counts[State.PENDING],
        parked=counts[State.PARKED],
        attempts=attempts,
        lost=len(changed - accepted.keys() - states.keys()),
        overtaken=_overtaken(noted),
    )


def _overtaken(noted: Sequence[Noted]) -> int:
    """Versions that the receiver accepted for the first time after a later one of the same order."""
    seen: set[Version] = set()
    newest: dict[str, int] = {}
    late = 0
    for one in noted:
        if one.accepted and (one.key, one.version) not in seen:
            seen.add((one.key, one.version))
            late += one.version < newest.get(one.key, 0)
            newest[one.key] = max(one.version, newest.get(one.key, 0))
    return late


# All of it


def cases(
    directory: Path, source: LocalPostgres, stores: LocalPostgres | None
) -> Iterator[tuple[Case, dict[str, Inbox]]]:
    """The healthy one alone, then all six; a case's receivers listen until the next is asked for."""
    for name, sorts in (("alone", [HEALTHY]), ("six", list(SORTS))):
        store = "sqlite:///var/hub.db"
        if stores:
            with psycopg.connect(stores.url(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}".encode())
            store = stores.url(name).replace("postgresql://", "postgresql+psycopg://", 1)
        (directory / name).mkdir()
        with ExitStack() as stack:
            inboxes = {sort: stack.enter_context(Inbox(sort, directory / name)) for sort in sorts}
            urls = {sort: inbox.url for sort, inbox in inboxes.items()}
            if len(sorts) > 1:
                urls["dead"] = stack.enter_context(nobody())
            yield Case(name, urls, directory, source.url(LEGACY), store), inboxes


def judge(case: Case, inboxes: Mapping[str, Inbox], states: Mapping[str, str]) -> dict[str, Outcome]:
    """By destination; exits when a commit has made no version, or not one."""
    commits = (WARM_UP + SECONDS) * RATE
    made = len(_journal(case)) - ORDERS
    if made != commits:
        sys.exit(f"{case.name}: {commits} commits, but {made} versions")
    noted = {name: inbox.noted() for name, inbox in inboxes.items()}
    return {name: outcome(case, name, states[name], noted.get(name, [])) for name in case.urls}


def show(figures: Mapping[str, Figures], outcomes: Mapping[str, Outcome]) -> None:
    print(f"{'':18}" + "".join(f"{name:>14}" for name in figures))
    for key in next(iter(figures.values())):
        print(f"{key:18}" + "".join(f"{each[key]:14,.2f}" for each in figures.values()))
    counts = ("accepted", "doubled", "pending", "parked", "attempts", "lost", "overtaken")
    print(f"{'':10}" + "".join(f"{count:>10}" for count in counts))
    for name, one in outcomes.items():
        print(f"{name:10}" + "".join(f"{getattr(one, count):10,}" for count in counts) + f"   {one.state}")


def main() -> None:
    if STORE not in ("sqlite", "postgres"):
        sys.exit(f"HUB_BENCH_STORE={STORE} is no store. Take sqlite or postgres.")
    directory = Path(tempfile.mkdtemp(prefix="hub-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    figures: dict[str, Figures] = {}
    outcomes: dict[str, Outcome] = {}
    settings = {"fsync": "on"}
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}, {psutil.cpu_count()} cores", flush=True)
    try:
        with ExitStack() as stack:
            source = stack.enter_context(LocalPostgres(directory / "source", "debian", settings))
            stores = None
            if STORE == "postgres":
                stores = stack.enter_context(LocalPostgres(directory / "store", "debian", settings))
            with psycopg.connect(source.url(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {LEGACY}".encode())
            make_orders(source.url(LEGACY), ORDERS)
            for case, inboxes in cases(directory, source, stores):
                print(f"{case.name}: {(WARM_UP + SECONDS) * RATE:,} commits to {', '.join(case.urls)}", flush=True)
                figures[case.name], states = measure(case, inboxes[HEALTHY])
                outcomes = judge(case, inboxes, states)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show(figures, outcomes)
    lost = [name for name, one in outcomes.items() if one.lost or one.overtaken]
    if lost:
        sys.exit(f"Lost, or in another order than committed, at: {', '.join(lost)}")
    alone, six = figures.values()
    results: dict[str, Any] = {
        f"{name}_{key}": round(value, 3) for name in figures for key, value in figures[name].items()
    }
    results["ratio_p50"] = round(six["p50_ms"] / alone["p50_ms"], 3)
    results["ratio_p99"] = round(six["p99_ms"] / alone["p99_ms"], 3)
    results["destinations"] = {name: asdict(one) for name, one in outcomes.items()}
    results["cores_of_machine"] = psutil.cpu_count()
    print(f"p99 of the healthy one among six: {results['ratio_p99']:.2f} times of alone")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
