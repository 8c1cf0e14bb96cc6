from hub.delivery import Delivery
from hub.dispatch.lanes import LANE, WINDOW, Queue


def delivery(seq: int, key: str = "a", version: int | None = None) -> Delivery:
    return Delivery(seq, 1, 1, key, version or seq, 0, 1, 0, 0, 0)


def test_a_lane_is_offered_once_and_its_next_after_it() -> None:
    """Nothing of a document begins while an earlier version is on its way; other documents do."""

    queue = Queue()
    lane = queue.add(delivery(1))
    assert lane is not None
    assert queue.add(delivery(2)) is None
    assert queue.add(delivery(3, "b")) is not None

    assert queue.pop(lane) is lane
    assert lane.head.seq == 2
    assert queue.pop(lane) is None
    assert queue.size == 1


def test_a_waiting_lane_leaves_its_followers_in_the_store() -> None:
    """So that retries of one document don't fill the window; they come back in order when it is settled."""

    queue = Queue()
    lane = queue.add(delivery(1))
    assert lane is not None
    queue.add(delivery(2))
    queue.stand(lane)
    queue.add(delivery(5))
    assert (queue.size, queue.standing, len(lane.items)) == (0, 1, 1)

    assert queue.pop(lane) is None
    assert queue.needs_refill(lane)
    assert lane.cut == 1
    assert queue.refill(lane, [delivery(2), delivery(5)], more=False) is lane
    assert [item.seq for item in lane.items] == [2, 5]
    assert (queue.size, queue.standing) == (2, 0)


def test_one_document_cannot_fill_the_window() -> None:
    """Past LANE its deliveries stay in the store."""

    queue = Queue()
    for seq in range(1, WINDOW + 10):
        queue.add(delivery(seq))

    assert queue.size == LANE
    assert queue.room == WINDOW - LANE


def test_a_released_one_goes_before_later_versions_but_not_before_what_is_on_its_way() -> None:
    """Version 3 was parked; 5 is on its way, 6 waits."""

    queue = Queue()
    lane = queue.add(delivery(50, version=5))
    assert lane is not None
    queue.add(delivery(60, version=6))
    assert queue.put_first(delivery(30, version=3), superseded_by_newer=True) is None

    assert [item.version for item in lane.items] == [5, 3, 6]
    assert lane.released == {30}


def test_a_parked_one_holds_its_document_until_it_is_released() -> None:
    """on_park: hold."""

    queue = Queue()
    lane = queue.add(delivery(1))
    assert lane is not None
    queue.add(delivery(2))
    queue.hold(lane)
    assert queue.add(delivery(3)) is None

    assert queue.put_first(delivery(1), superseded_by_newer=True) is lane
    assert queue.pop(lane) is None
    assert queue.needs_refill(lane)
    assert lane.cut == 1


def test_what_is_read_twice_is_sent_once() -> None:
    """A subscription that was paused and goes on reads from the start."""

    queue = Queue()
    lane = queue.add(delivery(7))
    assert lane is not None
    lane.flying = True
    queue.rewind()

    assert queue.add(delivery(7)) is None
    assert queue.size == 1


def test_rewind_forgets_what_is_not_on_its_way() -> None:
    """Memory of a subscription that stands still is given back."""

    queue = Queue()
    for seq in range(1, 100):
        queue.add(delivery(seq, key=str(seq)))
    queue.rewind()

    assert (queue.size, queue.cursor, queue.behind, queue.lanes) == (0, 0, True, {})


def test_what_was_parked_elsewhere_holds_what_is_behind_it() -> None:
    """The first is on its way: it is not held, and what comes behind the parked one is left to the store."""
    queue = Queue()
    lane = queue.add(delivery(1))
    assert lane
    queue.add(delivery(2))
    queue.add(delivery(5))

    queue.hold_key(lane.key, 3)
    assert [item.seq for item in lane.items] == [1, 2]
    assert queue.size == 2
    assert queue.add(delivery(6)) is None
    queue.pop(lane)
    queue.pop(lane)
    assert queue.needs_refill(lane)
    queue.hold_key(lane.key, 3)
    assert not queue.needs_refill(lane)
    queue.unhold(lane)
    assert queue.needs_refill(lane)
