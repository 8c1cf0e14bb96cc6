"""Five deliberate errors in assembling, each of which the oracle catches.

The errors are put in by subclass; the hub's own code is not touched. Row changes come from the tables themselves, so
that one trial takes a second; `test_oracle.py` has the whole way through Debezium.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.catalogue import read_catalogue
from hub.capture.assemble import Assembler, Reached
from hub.capture.capture import Capture
from hub.capture.images import Touched, View
from hub.capture.layout import Layout
from hub.changes import Arrival, Commit, Operation, SnapshotCompleted, SnapshotRows, Transaction
from hub.entities import Entity, Node, compile_entity
from hub.project.files import load
from hub.store.database import Store
from hub.store.migrate import upgrade
from hub.store.streams import begin_snapshot, load_stream
from tests.acceptance.table_changes import TableChanges
from tests.oracle import journal
from tests.oracle.compare import Finding, judge
from tests.oracle.source import Trial, trial

pytestmark = pytest.mark.integration

SEEDS = range(400, 406)
COMMITS = 40
GROUP = 4  # transactions that capture gets at one time
STREAM = "main/main"

MakeDatabase = Callable[[], str]
MakeAssembler = Callable[[Entity, Layout], Assembler]


class ForgetsTheOldParent(Assembler):
    """A child that moves re-issues the new root only."""

    def reach(self, touched: Touched, node: Node, reached: Reached) -> None:
        moved = node.index and touched.new is not None
        super().reach(touched._replace(old=None) if moved else touched, node, reached)


class StopsAtTheFirstLevel(Assembler):
    """A change two levels below the root, or deeper, reaches no document."""

    def climb(self, view: View, node: int, values: Collection[str], limit: int) -> Collection[str]:
        return () if self.steps[node].node.parent > 0 else super().climb(view, node, values, limit)


class IgnoresWhatItBelongsTo(Assembler):
    """A change of a belongs_to or has_one row makes no version of its own, as if it were `refresh: false`."""

    def reach(self, touched: Touched, node: Node, reached: Reached) -> None:
        if node.many or node.index == 0 or touched.old is None or touched.new is None:
            super().reach(touched, node, reached)


def embeds_the_soft_deleted(entity: Entity, layout: Layout) -> Assembler:
    """A row that counts as absent stays in its parent."""
    root, *others = entity.nodes
    return Assembler(replace(entity, nodes=(root, *(replace(node, soft_delete="") for node in others))), layout)


def sorts_by_key_alone(entity: Entity, layout: Layout) -> Assembler:
    """`order_by` is ignored."""
    return Assembler(replace(entity, nodes=tuple(replace(node, order_by=()) for node in entity.nodes)), layout)


class Faulty(Capture):
    """Capture with assemblers of the test's own."""

    def assemble_by(self, make: MakeAssembler) -> "Faulty":
        self.assemblers = {name: make(one.entity, self.layout) for name, one in self.assemblers.items()}
        return self


ERRORS: tuple[MakeAssembler, ...] = (
    ForgetsTheOldParent,
    StopsAtTheFirstLevel,
    embeds_the_soft_deleted,
    sorts_by_key_alone,
    IgnoresWhatItBelongsTo,
)


class Followed:
    """A trial's commits as arrivals, made once and given to any number of captures."""

    def __init__(self, made: Trial, directory: Path) -> None:
        self.trial = made
        self.directory = directory
        made.project(directory, "sqlite:///unused.db")
        self.entities = self._entities()
        self.arrivals = self._arrivals()

    def _entities(self) -> list[Entity]:
        catalogue = read_catalogue(self.trial.connection)
        configs = load(self.directory, {}).entities
        return [compile_entity(config, catalogue) for config in configs.values()]

    def _arrivals(self) -> list[Arrival]:
        tables = TableChanges(self.trial.connection, self.trial.schema)
        arrivals: list[Arrival] = [
            SnapshotRows(tables.since(Operation.READ)),
            SnapshotCompleted(Commit(1, 0, 1)),
        ]
        while len(self.trial.history.commits) <= COMMITS:
            before = len(self.trial.history.commits)
            self.trial.burst(1)
            commit = self.trial.history.commits[before]
            changes = tables.since()
            if changes:
                arrivals.append(Transaction(Commit(before + 1, commit.transaction, before), changes))
        return arrivals

    def findings(self, name: str, make: MakeAssembler = Assembler, fan_out: int = 1000) -> list[Finding]:
        """What the oracle has to say of a capture that assembles by `make`."""
        store = Store(f"sqlite:///{self.directory / name}.db")
        upgrade(store)
        begin_snapshot(store, STREAM, read_catalogue(self.trial.connection), {e.name: {} for e in self.entities})
        state = load_stream(store, STREAM)
        assert state
        capture = Faulty(store, state, self.entities, (), fan_out).assemble_by(make)
        for start in range(0, len(self.arrivals), GROUP):
            capture.apply(self.arrivals[start : start + GROUP])
            for _ in range(start // GROUP % 4):
                capture.work()
        while capture.work():
            pass
        url = f"sqlite:///{store.path}"
        store.close()
        return judge(self.trial.history, journal.versions(url), fan_out)


@pytest.fixture(scope="module")
def followed(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Followed]]:
    with ExitStack() as stack:
        trials = [stack.enter_context(trial(make_database(), seed, truncates=False)) for seed in SEEDS]
        yield [Followed(made, tmp_path_factory.mktemp(f"seed{made.schema.seed}")) for made in trials]


@pytest.mark.parametrize("fan_out", [1000, 5])
def test_what_capture_makes_is_what_sql_says(followed: list[Followed], fan_out: int) -> None:
    """At once or by pending fan-outs, whose versions name every commit that they stand for: no finding."""
    for one in followed:
        found = one.findings(f"right{fan_out}", fan_out=fan_out)
        assert not found, "\n\n".join([*map(str, found[:10]), one.trial.describe()])


@pytest.mark.parametrize("error", ERRORS)
def test_the_error_is_caught(followed: list[Followed], error: MakeAssembler) -> None:
    """The oracle has findings in one of the trials at least."""
    assert any(one.findings(error.__name__, error) for one in followed)
