"""Random schemas, entities and transactions: the journal against one SQL query at every commit."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.oracle import journal
from tests.oracle.command import Run
from tests.oracle.compare import Finding, judge, judge_end
from tests.oracle.source import Trial, trial
from tests.oracle.writer import Writer

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("mode")]

MakeStore = Callable[[str], str]
BURST = 20
COMMITS = max(int(os.environ.get("HUB_ORACLE_COMMITS", "240")), 240)  # of the first part, over all its seeds
LONGEST = 300  # commits of one seed
SEEDS = range(100, 100 + max(4, COMMITS // LONGEST))
WRITERS = 4
FAN_OUT = 5


@pytest.mark.parametrize(("seed", "kind"), [(seed, ("sqlite", "postgres")[seed % 2]) for seed in SEEDS])
def test_every_version_is_what_sql_said_at_its_commit(
    seed: int, kind: str, database: str, make_store: MakeStore, tmp_path: Path
) -> None:
    """Each version equals the query at its own commit; a commit with no difference has none; numbers are 1, 2, 3."""
    store = make_store(kind)
    with trial(database, seed) as made:
        _follow(made, store, tmp_path, COMMITS // len(SEEDS))

        _expect_none(made, judge(made.history, journal.versions(store)))


@pytest.mark.parametrize(("seed", "kind"), [(200, "sqlite"), (201, "postgres")])
def test_with_four_writers_the_newest_versions_are_what_is_there(
    seed: int, kind: str, database: str, make_store: MakeStore, tmp_path: Path
) -> None:
    """Whatever four sessions do at one time, the journal ends at what SQL returns."""
    store = make_store(kind)
    with trial(database, seed) as made:
        with _started(made, store, tmp_path) as run:
            run.until_settled(made.fence())
            with ThreadPoolExecutor(WRITERS) as pool:
                list(pool.map(lambda number: _write(made, number), range(WRITERS)))
            run.until_settled(made.fence())

        _expect_none(made, judge_end(made.state(), journal.versions(store)))


@pytest.mark.parametrize(("seed", "kind"), [(300, "sqlite"), (301, "postgres")])
def test_a_commit_that_reaches_many_documents_may_merge_with_later_ones(
    seed: int, kind: str, database: str, make_store: MakeStore, tmp_path: Path
) -> None:
    """With `fan_out: 5` a version names its commits and equals the query at the newest; never two for one commit."""
    store = make_store(kind)
    with trial(database, seed) as made:
        _follow(made, store, tmp_path, 3 * BURST, FAN_OUT)
        found = journal.versions(store)

        _expect_none(made, [*judge(made.history, found, FAN_OUT), *judge_end(made.state(), found)])


def _follow(made: Trial, store: str, directory: Path, commits: int, fan_out: int | None = None) -> None:
    """Run the hub while the trial's writer commits in bursts."""
    with _started(made, store, directory, fan_out) as run:
        run.until_settled(made.fence())
        for _ in range(commits // BURST):
            _burst(made, run)


@contextmanager
def _started(made: Trial, store: str, directory: Path, fan_out: int | None = None) -> Iterator[Run]:
    project = made.project(directory, store, fan_out)
    made.admit(project)
    with project.running() as run:
        yield run


def _burst(made: Trial, run: Run) -> None:
    made.burst(BURST)
    run.until_settled(made.fence())


def _write(made: Trial, number: int) -> None:
    with made.connect() as connection:
        writer = Writer(connection, made.schema, f"{made.schema.seed} {number}")
        for _ in range(2 * BURST):
            writer.commit()


def _expect_none(made: Trial, findings: Sequence[Finding]) -> None:
    shown = "\n\n".join(str(finding) for finding in findings[:10])
    assert not findings, f"{len(findings)} findings\n\n{shown}\n\n{made.describe()}"
