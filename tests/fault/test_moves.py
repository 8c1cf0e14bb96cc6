"""An entity moves between streams on Kafka Connect while a worker still has the old project. `make moves` runs it."""

import json
import os
import shutil
from pathlib import Path

import psycopg
import pytest

from stack.connect import Connect
from tests.fault.orders import Application
from tests.fault.processes import Worker, until
from tests.fault.test_workers import _until_settled, project
from tests.oracle import journal
from tests.oracle.access import admit, fence
from tests.oracle.command import Project

pytestmark = [
    pytest.mark.fault,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("HUB_MOVES"), reason="takes minutes: make moves"),
]
__all__ = ["project"]

STREAMS = "select n.name, s.state from stream s join name n on n.id = s.stream_id"
BOTH = {"main/main": "streaming", "main/sales": "streaming"}


def test_a_worker_with_the_old_project_loses_the_entity_and_ends(
    database: str, project: Project, connect: Connect, tmp_path: Path
) -> None:
    """The new stream's connector has read since it was registered; versions go on, none is doubled or goes back."""
    application = Application(database)
    project.write({"entities/line.yaml": "entity: line\ntable: lines\n"})
    admit(project, database)
    project.hub("source", "register")
    workers = [Worker(project, "old")]
    try:
        with psycopg.connect(database, autocommit=True) as owner:
            with application.working():
                _until_settled(project, fence(owner), "the snapshot is applied")
                new = _with_sales(project, tmp_path / "new")
                owner.execute(new.hub("source", "sql", "main/sales").encode())
                new.hub("source", "register", "main/sales", "--password", _reference(connect, project))
                _until_settled(project, application.position, "the old worker goes on meanwhile")

                workers.append(Worker(new, "new"))
                until(lambda: workers[0].process.poll() is not None, "the old worker has ended")
                admit(new, database)
                new.hub("source", "register")
                until(lambda: dict(journal.select(new.store, STREAMS)) == BOTH, "both streams are followed")
            _until_settled(new, fence(owner), "the last commit is there")
            new.hub("verify")
    finally:
        for worker in workers:
            worker.kill()
    assert workers[0].process.returncode == 2
    assert "order has moved from main/main to main/sales" in workers[0].log.read_text("utf-8")
    expect_counts_to_rise(journal.versions(new.store), application.counts)
    new.hub("source", "status", "main/sales", "--delete")


def _with_sales(project: Project, directory: Path) -> Project:
    """The project of a machine that has been brought up to date."""
    shutil.copytree(project.directory, directory)
    hub = json.loads((directory / "hub.yaml").read_text("utf-8"))
    hub["sources"]["main"]["streams"] = {"sales": ["order"]}
    new = Project(directory, project.store)
    new.write({"hub.yaml": json.dumps(hub)})
    return new


def _reference(connect: Connect, project: Project) -> str:
    """To the source's password, as the first stream's connector has it."""
    name = json.loads((project.directory / "hub.yaml").read_text("utf-8"))["hub"]
    return f"${{dir:{connect.secrets}:{name}}}"


def expect_counts_to_rise(versions: list[journal.Version], counts: dict[int, int]) -> None:
    """Of each order versions 1, 2, 3 …, whose counts never go back and end with the last."""
    found: dict[str, list[int]] = {}
    for one in versions:
        if one.entity == "order":
            mine = found.setdefault(one.key, [])
            assert one.body
            assert one.version == len(mine) + 1
            mine.append(journal.parse(one.body)["n"])
    for order, count in counts.items():
        assert found[str(order)] == sorted(found[str(order)])
        assert found[str(order)][-1] == count
