"""What the benchmarks do to the legacy database."""

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from examples.postgres import find_binaries

ROWS = 100_000
UPDATES = 300_000
ORDERS = 10_000
LINES = 10
LATENCY_COMMITS = 2_000
WARM_UP_COMMITS = 1_500

TABLES = """
CREATE SCHEMA bench;
CREATE TABLE bench.accounts (id int PRIMARY KEY, branch int NOT NULL, balance int NOT NULL, filler text NOT NULL);
CREATE TABLE bench.orders (id bigserial PRIMARY KEY, customer text NOT NULL, placed_at timestamptz NOT NULL);
CREATE TABLE bench.lines (
  order_id bigint REFERENCES bench.orders, number int, sku text NOT NULL, quantity int NOT NULL, price numeric(10,2),
  PRIMARY KEY (order_id, number)
);
"""

UPDATE = r"""
\set id random(1, :rows)
UPDATE bench.accounts SET balance = balance + 1 + :client_id WHERE id = :id;
"""

ORDER = """
WITH placed AS (
  INSERT INTO bench.orders (customer, placed_at) VALUES ('customer', now()) RETURNING id
)
INSERT INTO bench.lines SELECT id, n, 'sku-' || n, n, 9.99 FROM placed, generate_series(1, 10) n;
"""


def make_tables(connection: psycopg.Connection[Any]) -> None:
    connection.execute(TABLES)
    connection.execute(
        "INSERT INTO bench.accounts SELECT n, n %% 100, 0, repeat(md5(n::text), 6) FROM generate_series(1, %s) n",
        [ROWS],
    )


@dataclass(frozen=True)
class Workload:
    name: str
    commits: int
    changes: int
    run: Callable[[str], None]


def WORKLOADS(scale: float) -> list[Workload]:
    updates, orders = int(UPDATES * scale), int(ORDERS * scale)
    return [
        Workload("updates", updates, updates, lambda url: _pgbench(url, UPDATE, updates)),
        Workload("orders", orders, orders * (1 + LINES), lambda url: _pgbench(url, ORDER, orders)),
    ]


def _pgbench(url: str, script: str, transactions: int) -> None:
    """Two clients, each one half."""
    _, binaries = find_binaries("debian")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [binaries / "pgbench", "-n", "-f", file.name, "-c", "2", "-t", str(transactions // 2)]
        command += ["-D", f"rows={ROWS}", "-M", "prepared", url]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def commits_per_second(url: str, rate: int, commits: int) -> None:
    """Orders, one every 1/rate seconds, each with its lines; each on disk, as an application's are.

    The log reaches its readers when it is flushed: what is committed with `off`, to load faster, waits for a timer.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        begin = time.monotonic()
        for number in range(commits):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            connection.execute(ORDER)
