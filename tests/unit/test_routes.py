"""How one subscription's deliveries get to the worker, and on from there."""

from hub.dispatch.outcomes import SECOND
from tests.unit.routing import NOW, Routing, delivery


def test_what_is_due_goes_to_the_worker() -> None:
    routing = Routing()
    routing.add(1)

    assert not routing.route.worker.idle


def test_a_retry_waits_until_it_is_due() -> None:
    """What follows in its lane stays in the store meanwhile."""
    routing = Routing()
    lane = routing.add(1, due_at=NOW + 5 * SECOND)

    assert routing.route.worker.idle
    assert (lane.standing, lane.due) == (True, NOW + 5 * SECOND)


def test_none_waits_for_longer_than_until_it_is_too_old() -> None:
    """Then it is tried to be rendered, which parks it."""
    lane = Routing(expire=60.0).add(1, created_at=NOW - 50 * SECOND, due_at=NOW + 3600 * SECOND)

    assert lane.due == NOW + 10 * SECOND


def test_a_delay_is_counted_from_the_change() -> None:
    lane = Routing(delay=30.0).add(1, created_at=NOW - 10 * SECOND)

    assert lane.due == NOW + 20 * SECOND


def test_nothing_goes_while_the_subscription_stands_still() -> None:
    """It is left to the store, and read again."""
    routing = Routing()
    lane = routing.add(1)
    routing.route.standing = "paused"
    routing.route.rewind()
    routing.route.offer(lane)

    assert routing.route.worker.idle
    assert (routing.route.queue.lanes, routing.route.queue.behind) == ({}, True)


def test_nothing_goes_that_another_worker_has() -> None:
    """It got the slice just now."""
    routing = Routing()
    lane = routing.add(1, slice=3)
    routing.route.worker.take_share(frozenset({0, 1, 2}))
    routing.route.offer(lane)

    assert routing.route.worker.idle
    assert routing.route.queue.lanes == {}


def test_a_lane_whose_rest_is_in_the_store_is_read_on() -> None:
    """Its first had waited for a retry; once it is settled a look is asked for."""
    routing = Routing()
    lane = routing.add(1, due_at=NOW + SECOND)
    routing.route.queue.add(delivery(2))
    routing.looks.clear()
    routing.route.advance(lane)

    assert routing.route.refills == [lane]
    assert routing.looks


def test_what_is_pending_no_more_lets_the_next_go() -> None:
    routing = Routing()
    lane = routing.add(1)
    routing.add(2)
    routing.route.lose(lane)

    assert lane.head.seq == 2


def test_what_is_pending_no_more_may_hold_its_document() -> None:
    """It may have been parked: a look tells."""
    routing = Routing(on_park="hold")
    lane = routing.add(1)
    routing.add(2)
    routing.route.lose(lane)

    assert (lane.standing, lane.parked) == (True, 1)
    assert routing.looks
