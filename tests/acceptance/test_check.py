"""`hub check` and `hub init` as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

CONFERENCE = Path(__file__).parents[2] / "examples" / "conference"
HUB = Path(sys.executable).with_name("hub")
NOWHERE = "postgresql://hub:hunter2@127.0.0.1:1/shop"  # nothing listens on port 1

pytestmark = pytest.mark.acceptance


def hub(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HUB), "--project", str(directory), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture
def legacy(database: str) -> str:
    """The URL of a database with the demo application's schema."""
    with psycopg.connect(database) as connection:
        connection.execute((CONFERENCE / "schema.sql").read_bytes())
    return database


def environment(url: str) -> dict[str, str]:
    return {
        "LEGACY_URL": url,
        "RECEIVER_URL": "http://127.0.0.1:9",
        "WEBHOOK_SECRET": "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=",
    }


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A project that `hub init` made."""
    directory = tmp_path / "shop"
    assert hub(tmp_path, "init", str(directory)).returncode == 0
    return directory


def test_a_new_project_is_well(new: Path) -> None:
    """What `hub init` writes passes `hub check --offline` at once, with a line that says what was not looked at."""
    result = hub(new, "check", "--offline")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "No problems, no notes."
    assert "not read" in result.stdout


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    """It prints the commands to go on with."""
    result = hub(tmp_path, "init", str(tmp_path / "shop"))

    assert "source sql" in result.stdout
    assert "run" in result.stdout


def test_init_leaves_a_used_directory_alone(tmp_path: Path) -> None:
    """A directory with anything in it is refused and stays as it was."""
    (tmp_path / "mine.txt").write_text("mine")

    result = hub(tmp_path, "init", str(tmp_path))

    assert result.returncode == 2
    assert "not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_every_problem_has_its_place(new: Path) -> None:
    """All of them at once, `file:line:column: what remedy`, and exit code 2."""
    order = new / "entities" / "order.yaml"
    order.write_text(order.read_text().replace("foreign_key: order_id", "foregin_key: order_id"))
    orders = new / "subscriptions" / "archive-orders.yaml"
    orders.write_text(orders.read_text() + "where: doc.status |\n")
    archive = new / "destinations" / "archive.yaml"
    archive.write_text(archive.read_text().replace("connector: file", "connector: [file]"))

    result = hub(new, "check")

    assert result.returncode == 2
    assert "destinations/archive.yaml:3:12: 'connector'" in result.stdout
    assert "entities/order.yaml:13:5: The has_many 'lines' has no key 'foregin_key'." in result.stdout
    assert "Did you mean 'foreign_key'?" in result.stdout
    assert "subscriptions/archive-orders.yaml:8:1: where" in result.stdout
    assert result.stdout.splitlines()[-1] == "3 problems, no notes."
    assert "Traceback" not in result.stderr


def test_json(new: Path) -> None:
    """One object, with the problems as objects."""
    archive = new / "destinations" / "archive.yaml"
    archive.write_text(archive.read_text().replace("path:", "pth:"))

    result = hub(new, "check", "--offline", "--json")
    report = json.loads(result.stdout)

    assert result.returncode == 2
    assert not report["well"]
    assert {(one["file"], one["warning"]) for one in report["problems"]} == {("destinations/archive.yaml", False)}
    assert report["remarks"]


def test_a_wrong_url_is_a_problem_of_the_project(new: Path) -> None:
    """It is not tried, and not repeated."""
    result = hub(new, "check", SOURCE_URL="mysql://hub:hunter2@db/shop")

    assert result.returncode == 2
    assert "hub.yaml:6:10: 'url' of the source 'main' is not a Postgres URL." in result.stdout
    assert "hunter2" not in result.stdout + result.stderr


def test_no_project(tmp_path: Path) -> None:
    """Without a project every command says so, and how to begin one."""
    result = hub(tmp_path, "check")

    assert result.returncode == 2
    assert "hub init" in result.stdout + result.stderr


def test_a_source_out_of_reach_is_no_fault_of_the_project(new: Path) -> None:
    """It is checked offline, which is said; the password is not."""
    result = hub(new, "check", SOURCE_URL=NOWHERE)

    assert result.returncode == 0
    assert "could not be reached" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr


def test_the_demo_fits_its_database(legacy: str) -> None:
    """The example project has no problem against the live catalogue of the example application."""
    result = hub(CONFERENCE / "project", "check", **environment(legacy))

    assert result.returncode == 0, result.stdout + result.stderr
    assert "could not be reached" not in result.stdout


def test_a_table_and_a_column_that_are_not_there(legacy: str) -> None:
    """Named with their place and what is near, from the live catalogue."""
    with psycopg.connect(legacy) as connection:
        connection.execute("ALTER TABLE orders RENAME COLUMN internal_note TO internal_notes")
        connection.execute("ALTER TABLE tags RENAME TO tag")

    result = hub(CONFERENCE / "project", "check", **environment(legacy))

    assert result.returncode == 2
    assert "entities/order.yaml:4:21: public.orders has no column 'internal_note'. Did you mean 'internal_notes'?" in (
        result.stdout
    )
    assert "The source has no table public.tags. Did you mean 'public.tag'" in result.stdout


def test_a_table_without_key_is_refused_before_it_hurts(legacy: str) -> None:
    """The reason names what would happen to the application's own statements."""
    with psycopg.connect(legacy) as connection:
        connection.execute("ALTER TABLE invoices DROP CONSTRAINT invoices_pkey CASCADE")

    result = hub(CONFERENCE / "project", "check", **environment(legacy))

    assert result.returncode == 2
    assert "public.invoices has no primary key" in result.stdout
    assert "UPDATE and DELETE" in result.stdout


def test_a_column_of_a_type_that_is_not_carried(legacy: str) -> None:
    """Refused with the line to write."""
    with psycopg.connect(legacy) as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN place point")

    result = hub(CONFERENCE / "project", "check", **environment(legacy))

    assert result.returncode == 2
    assert "'place'" in result.stdout
    assert "exclude: [place]" in result.stdout
