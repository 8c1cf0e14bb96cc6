"""`hub source sql` and `hub doctor` as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.acceptance]

HUB = "hub: shop\nsources:\n  main:\n    url: {url}\n    slot: {slot}\nstore: sqlite:///var/hub.db\n"


def hub(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hub", "--project", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}, check=False)


@pytest.fixture
def project(database: str, tmp_path: Path) -> Path:
    (tmp_path / "hub.yaml").write_text(HUB.format(url=database, slot="hub_" + database.rpartition("/")[2]))
    (tmp_path / "entities").mkdir()
    (tmp_path / "entities" / "item.yaml").write_text("entity: item\ntable: items\ncolumns: {exclude: [secret]}\n")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text, secret text)")
    return tmp_path


def test_what_doctor_finds_is_mended_by_source_sql(project: Path, database: str) -> None:
    """Without the publication doctor fails with the remedy; after the DBA's SQL it is content."""
    before = hub(project, "doctor")
    assert before.returncode == 1, before
    assert "There is no publication" in before.stdout and "hub source sql" in before.stdout

    printed = hub(project, "source", "sql")
    assert printed.returncode == 0, printed
    assert "secret" not in printed.stdout
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(printed.stdout.encode())

    after = hub(project, "doctor", "--json")
    assert after.returncode == 0, after
    assert all(json.loads(line)["well"] for line in after.stdout.splitlines())


def test_a_source_out_of_reach_is_one_sentence(project: Path) -> None:
    """No traceback, exit code 3 and the place."""
    (project / "hub.yaml").write_text(HUB.format(url="postgresql://u:p@127.0.0.1:1/x", slot="hub"))
    done = hub(project, "source", "sql")
    assert (done.returncode, done.stdout) == (3, "")
    assert "127.0.0.1:1 cannot be reached" in done.stderr and "Traceback" not in done.stderr


def test_before_the_role_is_there(project: Path, database: str) -> None:
    """`source sql` cannot read by the role that it is to make, and says how it can."""
    (project / "hub.yaml").write_text(HUB.format(url=database.replace("//postgres:", "//nobody_yet:"), slot="hub"))

    refused = hub(project, "source", "sql")
    assert refused.returncode == 3
    assert refused.stderr.endswith("While the role is not there yet, read the catalogue by the owner's URL: --url.\n")

    printed = hub(project, "source", "sql", "--url", database)
    assert printed.returncode == 0 and 'CREATE ROLE "nobody_yet"' in printed.stdout
