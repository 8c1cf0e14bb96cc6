"""What is told and stored of a destination's health, by its own attempts and by what other workers found out."""

import pytest

from hub.delivery import Outcome, OutcomeKind, State
from hub.dispatch.health import WELL, DestinationState
from hub.dispatch.judge import Judge
from hub.dispatch.outcomes import SECOND, Following, Step
from hub.dispatch.steps import Steps
from tests.unit.routing import NOW, Routing, StoppedClock, delivery

FAULT = Outcome(OutcomeKind.HELD, "503")
ACCEPTED = Outcome(OutcomeKind.DELIVERED)


@pytest.fixture
def routing() -> Routing:
    return Routing()


@pytest.fixture
def judge(routing: Routing) -> Judge:
    routes = {routing.route.queue: routing.route}
    return Judge(routes, Steps(routing.results), routing.results, StoppedClock(), lambda: 0.0)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_hold_is_told_once_and_stored_until_it_is_over(
    routing: Routing, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    worker = routing.route.worker
    judge.judge(worker, delivery(1), FAULT, NOW, probe=False)
    judge.judge(worker, delivery(2), FAULT, NOW, probe=False)
    assert routing.written().destinations == {"crm": DestinationState(NOW, "503", NOW + SECOND)}

    judge.judge(worker, delivery(1), ACCEPTED, NOW, probe=True)
    assert routing.written().destinations == {"crm": WELL}
    assert told(caplog) == ["destination held", "destination well again"]


def test_one_that_fails_alone_and_again_is_parked(routing: Routing, judge: Judge) -> None:
    """The destination takes others before and after it."""
    worker = routing.route.worker
    lane = routing.add(1)
    for _ in range(2):
        judge.judge(worker, lane.head, FAULT, NOW, probe=False)
        Steps(routing.results).take(routing.route, lane, Following(Step.HOLD, 0, reason="503"))
        judge.judge(worker, delivery(2), ACCEPTED, NOW, probe=True)

    (parked,) = routing.written().updates
    assert (parked.seq, parked.state) == (1, State.PARKED)
    assert parked.reason == "Refused, while others are accepted: 503"


def test_what_another_worker_found_out_is_told_but_not_stored_again(
    routing: Routing, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    worker = routing.route.worker
    for state in (DestinationState(NOW, "503", NOW + SECOND), DestinationState(NOW, "503", NOW + 2 * SECOND), WELL):
        judge.hear(worker, state)

    assert told(caplog) == ["destination held", "destination well again"]
    assert not routing.written()


def test_until_when_a_receiver_wants_time_is_told_once(
    routing: Routing, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    """Each one of those that were on their way gets the answer."""
    following = Following(Step.WAIT, 0, NOW + 60 * SECOND, "429", pause=True)
    for _ in range(2):
        judge.pause(routing.route.worker, following)

    assert told(caplog) == ["destination asks for time"]
    assert routing.route.worker.health.open_at() == NOW + 60 * SECOND
    assert routing.written().destinations == {"crm": DestinationState(0, "429", NOW + 60 * SECOND)}
