"""`hub verify` against a live database that `hub run` has followed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import MakeStore
from tests.oracle import journal
from tests.oracle.access import admit, make_role, withdraw
from tests.oracle.command import HUB, Project, hub_yaml

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("mode")]

ORDER = """
entity: order
table: public.orders
has_many:
  lines: {table: public.lines, foreign_key: order_id}
"""


@pytest.fixture
def project(database: str, make_store: MakeStore, tmp_path: Path) -> Iterator[Project]:
    """Of thirty orders with a line each."""
    with psycopg.connect(database, autocommit=True) as source:
        source.execute("CREATE TABLE orders (id int PRIMARY KEY, total numeric)")
        source.execute("CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders, sku text)")
        source.execute("INSERT INTO orders SELECT g, g FROM generate_series(1, 30) g")
        source.execute("INSERT INTO lines SELECT g, g, 'a' FROM generate_series(1, 30) g")
    made = Project(tmp_path / "project", make_store("sqlite"))
    slot = urlsplit(database).path.removeprefix("/")
    made.write({"hub.yaml": hub_yaml(make_role(database), made.store, slot=slot), "entities/order.yaml": ORDER})
    admit(made, database)
    yield made
    withdraw(database)


def _hub(project: Project, *arguments: str, ends_with: int) -> str:
    command = [HUB, "--project", project.directory, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == ends_with, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_verify_finds_one_value_changed_by_hand(database: str, project: Project) -> None:
    """And nothing before; a hub that is behind says so instead."""
    _hub(project, "run", "--until-idle", ends_with=0)
    assert "30 documents compared, no difference" in _hub(project, "verify", ends_with=0)

    with psycopg.connect(database) as source:
        source.execute("UPDATE lines SET order_id = 8, sku = 'b' WHERE id = 7")
    assert "has not stored all" in _hub(project, "verify", ends_with=3)

    _hub(project, "run", "--until-idle", ends_with=0)
    _hub(project, "verify", "order", "--sample", "5", ends_with=0)

    _change_by_hand(project.store)
    assert "  9: differs\n    total" in _hub(project, "verify", ends_with=1)


def _change_by_hand(store: str) -> None:
    (body,) = journal.select(store, "select body from document where key = '9'")[0]
    changed = bytes(body).replace(b'"total":"9"', b'"total":"9.0"')
    assert changed != body
    journal.change(store, "update document set body = ? where key = '9'", (changed,))
