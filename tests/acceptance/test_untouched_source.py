"""The source is untouched: once the snapshot is done, nobody but the application reads or writes its tables.

Every change is made twice, in the schema that the hub follows and in a twin that it does not know. Whatever the
application's own statements cost, the twin shows it: the tables' scans must be the same.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.conftest import MakeStore
from tests.oracle.access import admit, fence, make_role, withdraw
from tests.oracle.command import Project, hub_yaml

pytestmark = pytest.mark.acceptance

CHANGES = 1000
IDLE = float(os.environ.get("HUB_IDLE_SECONDS", "60"))
FOLLOWED, TWIN = "shop", "twin"
TABLES = ("customers", "orders", "lines")
# The application owns its tables, so that the server's own checks of foreign keys run in its name.
SCHEMA = """
create schema {0} authorization {1}; set role {1};
create table {0}.customers (id int primary key, name text);
create table {0}.orders (id int primary key, customer_id int references {0}.customers on delete cascade, note text);
create table {0}.lines (id int primary key, order_id int references {0}.orders on delete cascade, quantity int);
create index on {0}.orders (customer_id);
create index on {0}.lines (order_id);
insert into {0}.customers select i, 'customer ' || i from generate_series(1, 20) i;
insert into {0}.orders select i, i % 20 + 1, 'order ' || i from generate_series(1, 100) i;
insert into {0}.lines select i, i % 100 + 1, i from generate_series(1, 300) i;
reset role;
"""
ORDER = """
entity: order
table: shop.orders
belongs_to: {customer: {table: shop.customers, foreign_key: customer_id}}
has_many: {lines: {table: shop.lines, foreign_key: order_id, order_by: quantity}}
"""
FOREIGN_STATEMENTS = """
select r.rolname, s.calls, s.query from pg_stat_statements s join pg_roles r on r.oid = s.userid
where s.dbid = (select oid from pg_database where datname = current_database())
  and r.rolname <> %s and s.query ~* '\\m(customers|orders|lines)\\M'
"""
SCANS = """
select relname, seq_scan + coalesce(idx_scan, 0) from pg_stat_user_tables where schemaname = %s
"""
Statistics = psycopg.Connection[Any]


class Application:
    """The legacy application: it changes both schemas in the same way, one commit a change."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.rng = Random(7)
        self.fresh = 1000

    def change(self) -> None:
        statement, values = self._statement()
        for schema in (FOLLOWED, TWIN):
            self.connection.execute(statement.format(schema).encode(), values)

    def _statement(self) -> tuple[str, tuple[object, ...]]:
        self.fresh += 1
        order, line = self.rng.randint(1, 100), self.rng.randint(1, 300)
        return self.rng.choice(
            (
                ("update {0}.orders set note = %s where id = %s", (f"note {self.fresh}", order)),
                ("update {0}.customers set name = %s where id = %s", (f"name {self.fresh}", order % 20 + 1)),
                ("update {0}.lines set quantity = quantity + 1 where id = %s", (line,)),
                ("update {0}.lines set order_id = (select max(id) from {0}.orders) where id = %s", (line,)),
                ("insert into {0}.orders values (%s, %s, 'new')", (self.fresh, order % 20 + 1)),
                ("insert into {0}.lines values (%s, %s, 1)", (self.fresh, order)),
                ("delete from {0}.lines where id = %s", (line,)),
            )
        )

    def close(self) -> None:
        """Its session's end makes its statistics known."""
        self.connection.close()


@pytest.fixture
def statistics(database: str) -> Iterator[Statistics]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create extension pg_stat_statements")
        connection.execute("set stats_fetch_consistency = 'none'")
        yield connection


@pytest.fixture
def application(database: str, statistics: Statistics) -> Iterator[str]:
    """The URL of the application's own role, in a database with both schemas. No vacuum disturbs the counters."""
    parts = urlsplit(database)
    role = f"app_{parts.path.removeprefix('/')}"
    statistics.execute(sql.SQL("create role {} login password 'app'").format(sql.Identifier(role)))
    for schema in (FOLLOWED, TWIN):
        for statement in SCHEMA.format(schema, role).split(";"):
            statistics.execute(statement.encode())
        for table in TABLES:
            statistics.execute(f"alter table {schema}.{table} set (autovacuum_enabled = false)".encode())
    yield urlunsplit((parts.scheme, f"{role}:app@{parts.hostname}:{parts.port}", parts.path, "", ""))
    statistics.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


Scans = dict[str, dict[str, int]]  # by schema and table


@pytest.fixture
def empty(application: str, statistics: Statistics) -> Scans:
    """The tables' scans before anybody follows them: Kafka Connect does so from its registration on."""
    return _scans(statistics)


@pytest.fixture
def project(database: str, empty: Scans, make_store: MakeStore, tmp_path: Path) -> Iterator[Project]:
    store = make_store("sqlite")
    made = Project(tmp_path, store)
    slot = urlsplit(database).path.removeprefix("/")
    made.write({"hub.yaml": hub_yaml(make_role(database), store, slot=slot), "entities/order.yaml": ORDER})
    admit(made, database)
    yield made
    withdraw(database)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("mode")
def test_nobody_but_the_application_touches_its_tables(
    database: str, application: str, empty: Scans, project: Project, statistics: Statistics
) -> None:
    """Over 1,000 changes and 60 idle seconds: no foreign statement on its tables, no scan that is not its own."""
    role = urlsplit(application).username
    with project.running() as run:
        run.until_settled(fence(statistics))
        # A session that goes idle tells its statistics late, up to ten seconds.
        run.until(lambda: _all_read(empty, _scans(statistics)), "the snapshot's own scans are told")
        statistics.execute("select pg_stat_statements_reset()")
        before = _scans(statistics)
        app = Application(application)
        for _ in range(CHANGES):
            app.change()
        app.close()
        run.until_settled(fence(statistics))
        time.sleep(IDLE)  # the idle time itself is what is measured

        after = _scans(statistics)
        foreign = statistics.execute(FOREIGN_STATEMENTS, [role]).fetchall()

    risen = {schema: {t: after[schema][t] - before[schema][t] for t in TABLES} for schema in (FOLLOWED, TWIN)}
    assert foreign == []
    assert risen[FOLLOWED] == risen[TWIN]
    assert sum(risen[FOLLOWED].values()) >= CHANGES / 2  # the counters do count


def test_a_foreign_statement_would_be_seen(database: str, application: str, statistics: Statistics) -> None:
    """One look at one table by another role shows in both measures."""
    statistics.execute("select pg_stat_statements_reset()")
    before = _scans(statistics)
    with psycopg.connect(database) as other:
        other.execute("select count(*) from shop.lines")
    after = _scans(statistics)

    seen = statistics.execute(FOREIGN_STATEMENTS, [urlsplit(application).username]).fetchall()
    assert [query for _, _, query in seen] == ["select count(*) from shop.lines"]
    assert after[FOLLOWED]["lines"] - before[FOLLOWED]["lines"] == 1
    assert after[TWIN] == before[TWIN]


def _all_read(before: Scans, now: Scans) -> bool:
    return all(now[FOLLOWED][table] > before[FOLLOWED][table] for table in TABLES)


def _scans(statistics: Statistics) -> Scans:
    statistics.execute("select pg_stat_force_next_flush()")
    return {schema: dict(statistics.execute(SCANS, [schema]).fetchall()) for schema in (FOLLOWED, TWIN)}
