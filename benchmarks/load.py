"""What the benchmarks do to the legacy database."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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

# The row says when it was committed: what follows, up to the end of the commit, is microseconds and the disk's.
STAMP = """
UPDATE bench.orders SET placed_at = clock_timestamp()
WHERE id = (SELECT 1 + floor(random() * (SELECT max(id) FROM bench.orders))::bigint);
"""

ORDER_SET = """
CREATE TABLE bench.orders{n} (id int PRIMARY KEY, customer text NOT NULL, total numeric(12,2) NOT NULL);
CREATE TABLE bench.lines{n} (
  order_id int REFERENCES bench.orders{n}, number int, sku text NOT NULL, quantity int NOT NULL,
  PRIMARY KEY (order_id, number)
);
INSERT INTO bench.orders{n} SELECT id, 'customer ' || id, 0 FROM generate_series(1, {rows}) id;
INSERT INTO bench.lines{n} SELECT id, n, 'sku-' || n, 0 FROM generate_series(1, {rows}) id, generate_series(1, 3) n;
"""

ORDER_CHANGE = r"""
\set id random(1, :rows)
\set number random(1, 3)
BEGIN;
UPDATE bench.orders{n} SET total = total + 1 WHERE id = :id;
UPDATE bench.lines{n} SET quantity = quantity + 1 WHERE order_id = :id AND number = :number;
COMMIT;
"""


def make_tables(connection: psycopg.Connection[Any]) -> None:
    connection.execute(TABLES)
    connection.execute(
        "INSERT INTO bench.accounts SELECT n, n %% 100, 0, repeat(md5(n::text), 6) FROM generate_series(1, %s) n",
        [ROWS],
    )


def make_orders(url: str, orders: int) -> None:
    """So many orders, each with its lines."""
    with psycopg.connect(url) as connection:
        connection.execute(TABLES)
        for _ in range(orders):
            connection.execute(ORDER)


@dataclass(frozen=True)
class Workload:
    name: str
    commits: int
    changes: int
    run: Callable[[str], None]


def WORKLOADS(scale: float) -> list[Workload]:
    updates, orders = int(UPDATES * scale), int(ORDERS * scale)
    return [
        Workload("updates", updates, updates, lambda url: _pgbench(url, [UPDATE], updates, ROWS)),
        Workload("orders", orders, orders * (1 + LINES), lambda url: _pgbench(url, [ORDER], orders, ROWS)),
    ]


def _pgbench(url: str, scripts: Sequence[str], transactions: int, rows: int, clients: int = 2) -> None:
    """Each client does its part, of the scripts one at random each time."""
    _, binaries = find_binaries("debian")
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{number}.sql" for number in range(len(scripts))]
        for file, script in zip(files, scripts, strict=True):
            file.write_text(script)
        command = [str(binaries / "pgbench"), "-n", *(f"--file={file}" for file in files), "-M", "prepared"]
        command += ["-c", str(clients), "-t", str(transactions // clients), "-D", f"rows={rows}", url]
        environ = {**os.environ, "PGOPTIONS": "-c synchronous_commit=off"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ)


def make_order_sets(url: str, sets: int, rows: int) -> None:
    """`sets` pairs of tables, bench.orders1 and bench.lines1 and so on: so many orders in each, each of three lines."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE SCHEMA bench")
        for n in range(1, sets + 1):
            connection.execute(ORDER_SET.format(n=n, rows=rows).encode())


def change_order_sets(url: str, sets: int, rows: int, commits: int) -> int:
    """So many commits, each of an order and one of its lines, in a set at random; the last ones once in each set.

    Returns a WAL position that just these last ones are past.
    """
    scripts = [ORDER_CHANGE.format(n=n) for n in range(1, sets + 1)]
    _pgbench(url, scripts, commits - sets, rows)
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row
    for script in scripts:
        _pgbench(url, [script], 1, rows, clients=1)
    return int(row[0])


def commits_per_second(url: str, rate: int, commits: int, statement: str = ORDER) -> None:
    """One every 1/rate seconds, an order with its lines if not told otherwise; each on disk, as an application's are.

    The log reaches its readers when it is flushed: what is committed with `off`, to load faster, waits for a timer.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        begin = time.monotonic()
        for number in range(commits):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            connection.execute(statement.encode())
