"""The loop of a capture process, on a feed that can be in trouble."""

from pathlib import Path

import pytest

from hub.capture.role import Role
from hub.changes import Batch, Commit, FeedPlan, SnapshotCompleted
from hub.errors import OutsideError
from hub.store import streams, tables
from hub.store.database import Store
from tests.unit.test_capture import CATALOGUE

PAUSED = OutsideError("It is paused.", "Have it go on.")


class Quiet:
    """hub.changes.Feed: a snapshot of nothing, and then what is wrong at each look; the last of it for ever."""

    def __init__(self, *looks: OutsideError | None) -> None:
        self.looks = [*looks]
        self._first: list[Batch] = [Batch([SnapshotCompleted(Commit(10, 1, 1))], lambda: None)]

    def start(self, plan: FeedPlan) -> None:
        return None

    def take(self, timeout: float) -> Batch | None:
        return self._first.pop() if self._first else None

    def trouble(self) -> OutsideError | None:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def close(self) -> None:
        return None


@pytest.fixture
def role(tmp_path: Path) -> Role:
    store = Store(f"sqlite:///{tmp_path}/hub.db", durable=False)
    tables.metadata.create_all(store.engine)
    state = streams.begin_snapshot(store, "main/main", CATALOGUE, {})
    return Role(store, state, [], [], 1000, store.listen("capture main/main"))


def test_what_keeps_a_stream_from_going_on_is_noted_until_it_is_over(role: Role) -> None:
    """For `hub status`; a hub that runs for good waits."""
    noted = []

    def stopped() -> bool:
        state = streams.load_stream(role.capture.store, "main/main")
        noted.append(state and state.problem)
        return len(noted) == 6

    role.run(Quiet(None, PAUSED, PAUSED, None), stopped)
    assert noted == ["", "", str(PAUSED), str(PAUSED), "", ""]


def test_who_waits_for_a_stream_to_catch_up_is_told_that_it_will_not(role: Role) -> None:
    """`hub run --until-idle` ends; what is over in time does no harm, nor what is wrong once the goal is reached."""
    role.run(Quiet(PAUSED), lambda: False, goal=10, patience=0.0)
    with pytest.raises(OutsideError, match="It is paused"):
        role.run(Quiet(None, PAUSED), lambda: False, goal=11, patience=0.01)
    passing = Quiet(PAUSED, None)
    role.run(passing, lambda: len(passing.looks) == 1, goal=11, patience=60.0)
