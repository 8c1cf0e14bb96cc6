"""What goes out together, as a pure matter of lanes and times."""

from hub.delivery import Delivery
from hub.dispatch.batches import Batches
from hub.dispatch.lanes import Lane, Queue
from hub.dispatch.outcomes import SECOND

NOW = 1_700_000_000 * SECOND


def lanes(queue: Queue, *keys: str) -> list[Lane]:
    found = [queue.add(Delivery(seq, 1, 1, key, 1, 0, 0, 0, 0, 0)) for seq, key in enumerate(keys, 1)]
    return [lane for lane in found if lane is not None]


def gathered(queue: Queue, *keys: str, most: int = 100) -> Batches:
    batches = Batches(most)
    for lane in lanes(queue, *keys):
        batches.add(lane, NOW)
    return batches


def taken(batches: Batches, now: int = NOW, room: int = 100) -> str:
    return "".join(lane.key[1] for lane in batches.take(room, now))


def test_what_is_there_goes_together_at_once() -> None:
    """Without `batch`, nothing waits for more; as many as the connector takes share a call."""

    batches = gathered(Queue(), *"abcde", most=3)

    assert [taken(batches), taken(batches), taken(batches)] == ["abc", "de", ""]
    assert not batches


def test_a_batch_waits_until_it_is_full() -> None:
    """size: 3: two of them stay."""

    queue = Queue(3, 10 * SECOND)
    batches = gathered(queue, *"ab")
    assert taken(batches, NOW + 9 * SECOND) == ""
    assert batches.due_at() == NOW + 10 * SECOND
    batches.add(*lanes(queue, "c"), NOW + 9 * SECOND)

    assert taken(batches, NOW + 9 * SECOND) == "abc"


def test_a_batch_waits_as_long_as_its_first_at_most() -> None:
    """wait: 10s counts from the oldest; what comes after it does not make it wait longer."""

    queue = Queue(3, 10 * SECOND)
    batches = Batches(100)
    for seconds, lane in enumerate(lanes(queue, *"ab")):
        batches.add(lane, NOW + 6 * seconds * SECOND)

    assert taken(batches, NOW + 10 * SECOND) == "ab"


def test_the_smaller_size_holds() -> None:
    """A connector that takes one at a time gets one, without a wait."""

    batches = gathered(Queue(100, 10 * SECOND), *"ab", most=1)

    assert [taken(batches), taken(batches)] == ["a", "b"]


def test_subscriptions_take_turns_and_share_no_batch() -> None:
    """A long queue of one keeps no other waiting."""

    batches = gathered(Queue(2), *"abcd")
    for lane in lanes(Queue(2), *"xy"):
        batches.add(lane, NOW)

    assert [taken(batches), taken(batches), taken(batches)] == ["ab", "xy", "cd"]


def test_a_batch_goes_whole_or_waits_for_room() -> None:
    """It is not cut because bodies of others are in memory."""

    batches = gathered(Queue(3), *"abc")

    assert taken(batches, room=2) == ""
    assert taken(batches, room=3) == "abc"


def test_nothing_waits_at_the_end() -> None:
    """`hub run --until-idle`."""

    batches = gathered(Queue(3, 10 * SECOND), "a")
    batches.hurried = True

    assert taken(batches) == "a"


def test_a_probe_does_not_wait_for_its_batch() -> None:
    """One is enough to see whether a destination is well."""

    batches = gathered(Queue(3, 10 * SECOND), *"ab")
    lane = batches.take_one()
    assert lane is not None
    batches.put_back([lane])

    assert lane.key[1] == "a"
    assert taken(batches, NOW + 10 * SECOND) == "ab"


def test_what_failed_together_is_set_apart_in_halves() -> None:
    """Seven, four, two, one: and none joins them, though others wait."""

    queue = Queue(100, 10 * SECOND)
    failed, batches = lanes(queue, *"abcdefg"), Batches(100)
    sizes = []
    while len(failed) > 1:
        batches.part(failed)
        for lane in failed:
            batches.add(lane, NOW)
        batches.add(*lanes(queue, str(len(failed))), NOW)
        failed = batches.take(100, NOW)
        sizes.append(len(failed))
        batches.drop(lambda lane: lane.key[1].isalpha())

    assert sizes == [4, 2, 1]
    queue.pop(failed[0])
    assert failed[0].apart == 0


def test_what_is_dropped_is_not_waited_for() -> None:
    """Its subscription is paused, or its slice is another worker's."""

    batches = gathered(Queue(3, 10 * SECOND), *"ab")
    batches.drop(lambda lane: True)

    assert not batches
    assert batches.due_at() is None
