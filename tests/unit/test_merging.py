"""What is left to send of deliveries that wait behind each other."""

import msgspec
import pytest

from hub.delivery import Delivery
from hub.dispatch.merging import Waiting, fold, merge_documents
from hub.dispatch.outcomes import SECOND
from hub.documents import Cause, Event
from hub.project import DeliveryPolicy

LATEST = DeliveryPolicy(mode="latest")
EVENTS = {"c": Event.CREATED, "u": Event.UPDATED, "d": Event.DELETED}
_EVENTS, _CAUSES = tuple(Event), tuple(Cause)


def waiting(version: int, event: str, before: int, *, begun: bool = False, fixed: bool = False, **of: int) -> Waiting:
    code = _EVENTS.index(EVENTS[event])
    plain = Delivery(version, 1, 1, "a", version, 0, code, 0, 0, 0)
    return Waiting(msgspec.structs.replace(plain, **of), before, 0, None, begun, fixed)


def left(found: list[Waiting]) -> list[tuple[int, str, int]]:
    return [(one.delivery.version, _EVENTS[one.delivery.event].value[0], one.before_version) for one in found]


@pytest.mark.parametrize(
    ("older", "newer", "expected"),
    [
        (("c", 0), ("u", 1), [(2, "c", 0)]),
        (("u", 7), ("u", 1), [(2, "u", 7)]),
        (("u", 7), ("d", 1), [(2, "d", 7)]),
        (("d", 7), ("c", 0), [(2, "u", 7)]),
        (("c", 0), ("d", 1), []),
        (("c", 0), ("c", 0), [(2, "c", 0)]),  # it left meanwhile, which `on` does not send
        (("d", 7), ("d", 1), [(2, "d", 7)]),
    ],
)
def test_two_that_wait(older: tuple[str, int], newer: tuple[str, int], expected: list[tuple[int, str, int]]) -> None:
    """The newest stays; its event is taken against the version before the oldest."""

    assert left(fold([waiting(1, *older), waiting(2, *newer)], LATEST)) == expected


def test_a_delete_is_sent_once_an_attempt_has_begun() -> None:
    """The receiver may have the document; what it is shown is the last version that was in the set."""

    found = fold([waiting(1, "c", 0, begun=True), waiting(2, "u", 1), waiting(3, "d", 2)], LATEST)

    assert left(found) == [(3, "d", 2)]
    assert found[0].begun


def test_what_came_and_went_leaves_room_for_what_comes_again() -> None:
    """In, out, in: created."""

    assert left(fold([waiting(1, "c", 0), waiting(2, "d", 1), waiting(3, "c", 0)], LATEST)) == [(3, "c", 0)]


def test_what_is_on_its_way_is_not_merged() -> None:
    """Those behind it are, with each other."""

    found = fold([waiting(1, "c", 0, fixed=True), waiting(2, "u", 1), waiting(3, "u", 2)], LATEST)

    assert left(found) == [(1, "c", 0), (3, "u", 1)]


@pytest.mark.parametrize("asked_for", [{"replay_id": 3}, {"turn": 1}])
def test_what_was_asked_for_is_sent_as_it_is(asked_for: dict[str, int]) -> None:
    """A replay's deliveries, and those that a receiver planned."""

    assert len(fold([waiting(1, "u", 1), waiting(2, "u", 1, **asked_for), waiting(3, "u", 2)], LATEST)) == 3


def test_the_wait_of_a_retry_goes_over_to_the_newest() -> None:
    """So do its attempts and its age: a document that changes all the time is parked in the end too."""

    older = waiting(1, "u", 7, begun=True, attempts=2, due_at=900, created_at=10)
    found = fold([older, waiting(2, "u", 1, created_at=500)], LATEST)[0].delivery

    assert (found.attempts, found.due_at, found.created_at) == (2, 900, 10)


def test_a_delay_restarts_with_each_change_up_to_ten_times() -> None:
    """Ten changes, 2 s apart, with a delay of 3 s: quiet is 3 s after the last; of twenty, 30 s after the first."""

    policy = DeliveryPolicy(delay=3.0)
    changes = [waiting(n, "u", n - 1, created_at=2 * n * SECOND) for n in range(1, 21)]

    ten, twenty = fold(changes[:10], policy), fold(changes, policy)
    assert [one.delivery.due_at for one in ten] == [23 * SECOND]
    assert [(one.delivery.version, one.delivery.due_at) for one in twenty] == [(15, 32 * SECOND), (20, 43 * SECOND)]


def test_with_every_version_wanted_only_those_within_the_delay_merge() -> None:
    """The second came once the first was due; neither is lost to the other."""

    pair = [waiting(1, "u", 7, created_at=0), waiting(2, "u", 1, created_at=6 * SECOND)]

    assert left(fold(pair, DeliveryPolicy(delay=5.0))) == [(1, "u", 7), (2, "u", 1)]
    assert left(fold(pair, DeliveryPolicy(delay=5.0, mode="latest"))) == [(2, "u", 7)]


def test_documents_are_told_apart() -> None:
    """What goes, what stays changed, and what waits."""

    a = [waiting(1, "c", 0), waiting(2, "u", 1)]
    b = [waiting(3, "c", 0, key=2), waiting(4, "d", 3, key=2)]  # type: ignore[arg-type]
    merged = merge_documents([a, b, [waiting(5, "u", 1)]], LATEST)

    assert sorted(merged.gone) == [1, 3, 4]
    assert left(merged.changed) == [(2, "c", 0)]
    assert left(merged.waiting) == [(2, "c", 0), (5, "u", 1)]
