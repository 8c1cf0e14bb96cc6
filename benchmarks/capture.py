"""`make bench-capture`: row changes a second from the log to stored documents and deliveries, hub against bare engine.

Both read the same range of the same log, one after the other, three times in turn; the medians' ratio is what counts,
because these machines differ. The engine's consumer does nothing. The hub stores row images, documents and deliveries
in SQLite with every commit on disk, while its dispatch delivers what is there already to a file. The time is that
between the first and the last event, start-up left out. Afterwards journal and deliveries must number the commits.

The hub starts its JVM with options of its own (cdc.jvm), and these would speed the bare engine up too on a machine with
few cores. `ratio_updates` and `ratio_orders` are to the engine as it comes; the same ratios to an engine in the hub's
own JVM are printed beside them, as `…_same_jvm`.

Then commit to receiver at 100 commits a second, over http, by the receiver's clock.
"""

import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from benchmarks.load import LATENCY_COMMITS, ROWS, WARM_UP_COMMITS, WORKLOADS, Workload, commits_per_second, make_tables
from cdc.catalogue import read_catalogue
from cdc.source import source_sql
from examples.postgres import LocalPostgres
from hub.changes import parse_lsn
from tests.receiver import Receiver

ALTERNATIONS = int(os.environ.get("HUB_BENCH_ALTERNATIONS", "3"))
SCALE = float(os.environ.get("HUB_BENCH_SCALE", "1"))
HUB = [sys.executable, "-m", "hub"]
LIMIT = 600  # seconds for any one run

PROJECT = {
    "hub.yaml": (
        "hub: bench\nsources:\n  main:\n    url: {url}\n    slot: hub\nstore: sqlite:///var/hub.db\n"
        "console: {{listen: 127.0.0.1:0}}\nnetwork: {{allow: [localhost]}}\n"
    ),
    "entities/account.yaml": "entity: account\ntable: bench.accounts\n",
    "entities/order.yaml": (
        "entity: order\ntable: bench.orders\nhas_many:\n"
        "  lines: {{table: bench.lines, foreign_key: order_id, order_by: number}}\n"
    ),
    "destinations/file.yaml": "destination: file\nconnector: file\npath: {out}\n",
    "subscriptions/accounts.yaml": "subscription: accounts\nentity: account\nto: file\n",
    "subscriptions/orders.yaml": "subscription: orders\nentity: order\nto: {to}\n",
}


@dataclass
class Bench:
    """One database and one project, whose state before the load can be had again."""

    directory: Path
    server: LocalPostgres
    url: str

    @property
    def project(self) -> Path:
        return self.directory / "project"

    @property
    def store(self) -> Path:
        return self.project / "var" / "hub.db"

    def sql(self, statement: str, *parameters: Any) -> Any:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def write_project(self, receiver: str = "") -> None:
        files = dict(PROJECT)
        if receiver:
            files["destinations/http.yaml"] = "destination: http\nconnector: http\nurl: {receiver}\n"
        for name, text in files.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            to = "http" if receiver else "file"
            path.write_text(text.format(url=self.url, out=self.directory / "out.jsonl", to=to, receiver=receiver))

    def prepare(self) -> None:
        """Tables, publication, the snapshot; the store and a slot `base` are kept as they are then."""
        self.write_project()
        with psycopg.connect(self.url, autocommit=True) as connection:
            make_tables(connection)
            catalogue = read_catalogue(connection)
            tables = {n: [c.name for c in t.columns] for n, t in catalogue.tables.items() if n.startswith("bench.")}
            connection.execute(source_sql(tables, catalogue, "hub", self.url))
        subprocess.run([*HUB, "--project", self.project, "run", "--until-idle"], check=True, timeout=LIMIT)
        self.sql("SELECT pg_copy_logical_replication_slot('hub', 'base')")
        shutil.copytree(self.store.parent, self.directory / "kept", ignore=shutil.ignore_patterns("*.bell", "*.lock"))

    def rewind(self) -> None:
        """Store and slots as they were before the load."""
        shutil.rmtree(self.store.parent)
        shutil.copytree(self.directory / "kept", self.store.parent)
        (self.directory / "out.jsonl").unlink(missing_ok=True)
        for slot in ("hub", "bare"):
            if self.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", slot):
                self.sql("SELECT pg_drop_replication_slot(%s)", slot)
            self.sql(f"SELECT pg_copy_logical_replication_slot('base', '{slot}')")

    def rebase(self) -> None:
        """What the hub has taken in is the state to come back to from now on."""
        self.sql("SELECT pg_drop_replication_slot('base')")
        self.sql("SELECT pg_copy_logical_replication_slot('hub', 'base')")
        shutil.rmtree(self.directory / "kept")
        shutil.copytree(self.store.parent, self.directory / "kept", ignore=shutil.ignore_patterns("*.bell", "*.lock"))

    @contextmanager
    def running(self) -> Iterator[psutil.Process]:
        with (self.directory / "run.log").open("ab") as log:
            process = psutil.Popen([*HUB, "--project", self.project, "run"], stdout=log, stderr=log)
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


@dataclass
class Result:
    rate: float  # row changes a second
    cpu: dict[str, float] = field(default_factory=dict)  # microseconds a row change, by who spent them


def run_bare(bench: Bench, workload: Workload, end: str, jvm: str) -> Result:
    bench.rewind()
    command = [sys.executable, "-m", "benchmarks.bare", bench.url, "bare", "hub", str(bench.directory), end, jvm]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=LIMIT).stdout
    seconds = json.loads(said.splitlines()[-1])["seconds"]
    return Result(workload.changes / seconds)


def run_hub(bench: Bench, workload: Workload, end: str) -> Result:
    bench.rewind()
    before = count(bench.store)
    with bench.running() as process:
        meter = Meter(process)
        seconds = follow(bench.store, before.documents, parse_lsn(end))
        cpu = meter.spent(workload.changes)
    after = count(bench.store)
    made, planned = after.documents - before.documents, after.deliveries - before.deliveries
    if made != workload.commits or planned != workload.commits:
        sys.exit(f"{workload.name}: {workload.commits} commits, but {made} versions and {planned} deliveries")
    return Result(workload.changes / seconds, cpu)


@dataclass(frozen=True)
class Count:
    documents: int
    deliveries: int  # waiting or delivered


def count(store: Path) -> Count:
    with sqlite3.connect(store) as connection:
        (documents,) = connection.execute("SELECT count(*) FROM document").fetchone()
        (waiting,) = connection.execute("SELECT count(*) FROM delivery").fetchone()
        (delivered,) = connection.execute("SELECT count(*) FROM attempt WHERE outcome = 0").fetchone()
    return Count(documents, waiting + delivered)


def waiting(store: Path) -> int:
    """Deliveries that are not settled."""
    with sqlite3.connect(store, timeout=60) as connection:
        return int(connection.execute("SELECT count(*) FROM delivery").fetchone()[0])


def follow(store: Path, documents: int, end: int) -> float:
    """Seconds from the first new version to the moment at which all up to `end` is stored."""
    with sqlite3.connect(store, timeout=60) as connection:
        while connection.execute("SELECT max(position) FROM stream").fetchone()[0] < end:
            time.sleep(0.01)
        finished = time.time()
        query = "SELECT min(made_at) FROM document WHERE seq > ?"
        (first,) = connection.execute(query, (documents,)).fetchone()
    return finished - float(first) / 1e6


class Meter:
    """CPU time by part of the system."""

    def __init__(self, run: psutil.Process) -> None:
        self._run = run

    def spent(self, changes: int) -> dict[str, float]:
        return {name: 1e6 * seconds / changes for name, seconds in self._now().items()}

    def _now(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for child in self._run.children():
            command = child.cmdline()
            if "dispatch" in command:
                found["dispatch"] = sum(child.cpu_times()[:2])
            if "capture" not in command:
                continue
            main = next(t for t in child.threads() if t.id == child.pid)
            found["capture, Python"] = main.user_time + main.system_time
            found["capture, JVM"] = sum(child.cpu_times()[:2]) - found["capture, Python"]
        for process in psutil.process_iter(["cmdline"]):
            if "walsender" in " ".join(process.info["cmdline"] or []):
                found["Postgres, walsender"] = sum(process.cpu_times()[:2])
        return found


def throughput(bench: Bench, workload: Workload) -> tuple[dict[str, float], list[str]]:
    """The ratios of the medians, and what to print."""
    workload.run(bench.url)
    # All wait for a commit that comes after the load and belongs to nobody's table.
    end = str(bench.sql("SELECT pg_logical_emit_message(false, 'bench', '')"))
    bare, same_jvm, hub = [], [], []
    for turn in range(ALTERNATIONS):
        bare.append(run_bare(bench, workload, end, "default"))
        same_jvm.append(run_bare(bench, workload, end, "hub"))
        hub.append(run_hub(bench, workload, end))  # the last: its store is what `rebase` goes on from
        print(
            f"  {turn + 1}. engine {bare[-1].rate:9,.0f}/s, in the hub's JVM {same_jvm[-1].rate:9,.0f}/s"
            f"   hub {hub[-1].rate:9,.0f}/s",
            flush=True,
        )
    engine, tuned, ours = (statistics.median(result.rate for result in results) for results in (bare, same_jvm, hub))
    spent = ", ".join(f"{name} {statistics.median(r.cpu[name] for r in hub):.1f}" for name in hub[0].cpu)
    ratios = {f"ratio_{workload.name}": ours / engine, f"ratio_{workload.name}_same_jvm": ours / tuned}
    return ratios, [
        f"  median: engine {engine:,.0f}/s, hub {ours:,.0f}/s, ratio {ours / engine:.2f}; "
        f"engine in the hub's JVM {tuned:,.0f}/s, ratio {ours / tuned:.2f}",
        f"  CPU microseconds a row change, start-up included: {spent}",
    ]


def latency(bench: Bench) -> tuple[float, float]:
    """Median and 99th percentile, milliseconds from commit to arrival at the receiver, once all is warm."""
    with Receiver(bench.directory) as receiver:
        bench.rewind()
        bench.write_project(receiver.url)
        with bench.running():
            while waiting(bench.store):  # what the loads before left
                time.sleep(0.5)
            warm = len(receiver.log()) + WARM_UP_COMMITS
            commits_per_second(bench.url, 100, WARM_UP_COMMITS)
            receiver.wait_for(warm, 120)
            commits_per_second(bench.url, 100, LATENCY_COMMITS)
            receiver.wait_for(warm + LATENCY_COMMITS, 120)
        log = receiver.log()
    late = []
    for received in log[warm:]:
        committed = datetime.fromisoformat(received.json["time"]).timestamp()
        late.append(1000 * (received.at - committed))
    late.sort()
    return late[len(late) // 2], late[int(len(late) * 0.99)]


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="hub-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    results: dict[str, float] = {}
    settings = {"max_wal_size": "8GB", "shared_buffers": "512MB", "synchronous_commit": "off"}
    try:
        with LocalPostgres(directory / "postgres", "debian", settings) as server:
            bench = Bench(directory, server, server.url("postgres"))
            print(f"{ROWS:,} rows, snapshot", flush=True)
            bench.prepare()
            for workload in WORKLOADS(SCALE):
                print(f"{workload.name}: {workload.commits:,} commits, {workload.changes:,} row changes", flush=True)
                ratios, lines = throughput(bench, workload)
                results |= ratios
                print("\n".join(lines), flush=True)
                bench.rebase()
            results["p50_ms"], results["p99_ms"] = latency(bench)
            print(
                f"commit to receiver at 100 commits a second: "
                f"p50 {results['p50_ms']:.0f} ms, p99 {results['p99_ms']:.0f} ms",
                flush=True,
            )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps({name: round(value, 3) for name, value in results.items()}))


if __name__ == "__main__":
    main()
