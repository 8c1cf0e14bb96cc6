"""What each step after an attempt does to a lane, and what is stored of it."""

import logging

import pytest

from hub.delivery import State
from hub.dispatch.outcomes import SECOND, Following, Step
from hub.dispatch.steps import Steps
from hub.store.deliveries import Update
from tests.unit.routing import NOW, Routing, delivery


@pytest.mark.parametrize("step", Step)
def test_after_any_step_nothing_is_on_its_way(step: Step) -> None:
    routing = Routing()
    lane = routing.add(1)
    lane.flying = True
    Steps(routing.results).take(routing.route, lane, Following(step, 1, due_at=NOW + SECOND, reason="500"))

    assert not lane.flying


@pytest.mark.parametrize("step", [Step.SETTLE, Step.DROP])
def test_a_settled_one_is_gone_and_its_next_goes(step: Step) -> None:
    routing = Routing()
    lane = routing.add(1)
    routing.add(2)
    Steps(routing.results).take(routing.route, lane, Following(step, 1))

    assert lane.head.seq == 2
    assert routing.results.writing == {1}
    assert routing.written().settled == [1]


def test_an_accepted_one_supersedes_what_was_parked_before_it() -> None:
    """In the store, where the subscription has such; and of those that an operator released, in memory."""
    routing = Routing()
    lane = routing.add(5)
    routing.route.queue.put_first(delivery(2), superseded_by_newer=True)
    routing.route.parks = True
    Steps(routing.results).take(routing.route, lane, Following(Step.SETTLE, 1))

    written = routing.written()
    assert [one.seq for one in written.accepted] == [5]
    assert written.updates == [Update(2, State.SUPERSEDED, 0, 0, "")]
    assert (routing.route.queue.lanes, routing.route.queue.size) == ({}, 0)


def test_one_that_waits_stays_the_first_with_its_attempts() -> None:
    routing = Routing()
    lane = routing.add(1)
    Steps(routing.results).take(routing.route, lane, Following(Step.WAIT, 1, NOW + 5 * SECOND, "500"))

    assert (lane.head.attempts, lane.due) == (1, NOW + 5 * SECOND)
    assert routing.written().updates == [Update(1, State.PENDING, 1, NOW + 5 * SECOND, "500")]


def test_none_waits_past_its_expiry() -> None:
    routing = Routing(expire=3.0)
    lane = routing.add(1)
    Steps(routing.results).take(routing.route, lane, Following(Step.WAIT, 1, NOW + 5 * SECOND, "500"))

    assert routing.written().updates == [Update(1, State.PENDING, 1, NOW + 3 * SECOND, "500")]


def test_what_came_behind_one_that_was_tried_is_merged_later() -> None:
    """Once the store knows how the attempt went, in the next round of the reader."""
    routing = Routing(mode="latest")
    lane = routing.add(1)
    routing.add(2)
    Steps(routing.results).take(routing.route, lane, Following(Step.HOLD, 0, reason="503"))

    assert routing.route.unmerged == {(1, "a")}
    assert routing.looks


def test_a_parked_one_lets_the_next_go() -> None:
    routing = Routing()
    lane = routing.add(1)
    routing.add(2)
    Steps(routing.results).take(routing.route, lane, Following(Step.PARK, 3, reason="400"))

    assert lane.head.seq == 2
    assert routing.route.parks
    assert routing.written().updates == [Update(1, State.PARKED, 3, 0, "400")]


def test_a_parked_one_holds_its_document_where_wanted() -> None:
    routing = Routing(on_park="hold")
    lane = routing.add(1)
    routing.add(2)
    Steps(routing.results).take(routing.route, lane, Following(Step.PARK, 3, reason="400"))

    assert (lane.standing, lane.parked, list(lane.items)) == (True, 1, [])


def test_one_whose_fault_holds_the_destination_goes_last() -> None:
    routing = Routing()
    lane = routing.add(1)
    Steps(routing.results).take(routing.route, lane, Following(Step.HOLD, 0, reason="503"))

    assert routing.route.worker.take_doubtful(1) is lane


def test_a_disabled_subscription_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Though each one of a batch got the same answer."""
    routing = Routing()
    lanes = [routing.add(1, "a"), routing.add(2, "b")]
    with caplog.at_level(logging.WARNING):
        for lane in lanes:
            Steps(routing.results).take(routing.route, lane, Following(Step.DISABLE, 0, reason="410"))

    assert [record.getMessage() for record in caplog.records] == ["subscription disabled"]
    assert (routing.route.standing, routing.route.queue.lanes) == ("disabled", {})
    assert routing.written().disabled == {1: "410"}
