"""What each step after an attempt does: to the lane in memory, and to what is stored of it."""

import logging
from collections.abc import Callable, Mapping

import msgspec

from hub.delivery import Attempt, Forwarded, Held, OutcomeKind, State
from hub.dispatch.lanes import Lane
from hub.dispatch.outcomes import Following, Step, expires_at
from hub.dispatch.results import Results
from hub.dispatch.routes import Route

log = logging.getLogger("hub.dispatch.steps")


class Steps:
    def __init__(self, results: Results) -> None:
        self._results = results

    def take(self, route: Route, lane: Lane, following: Following) -> None:
        """What follows an attempt of the lane's first; the attempt itself is recorded already."""
        lane.flying = False
        self._STEPS[following.step](self, route, lane, following)

    def park(self, route: Route, lane: Lane, attempts: int, reason: str) -> None:
        """`attempts`: burnt. It waits for an operator, and holds its document's later versions where wanted."""
        delivery = lane.head
        log.warning(
            "delivery parked",
            extra={"subscription": route.name, "key": delivery.key, "version": delivery.version, "reason": reason},
        )
        tried = attempts > 0 or route.queue.may_have_begun(delivery.seq)
        self._results.update(delivery, State.PARKED, attempts, 0, reason, tried=tried)
        route.parks = True
        route.worker.health.forget(delivery.seq)
        if route.holds and not route.standing:
            route.queue.hold(lane)
            route.read_on()
        else:
            route.advance(lane)

    def skip(self, route: Route, lane: Lane, held: Held, now: int) -> None:
        """As if it had been accepted: the receiver has what this version would bring."""
        delivery = lane.head
        said = f"Not sent: it says the same as version {held.version}, which the receiver has."
        self._results.attempt(
            Attempt(delivery, delivery.attempts + 1, now, 0, OutcomeKind.UNCHANGED, said),
            msgspec.structs.replace(held, version=delivery.version),
        )
        self._settle(route, lane, Following(Step.SETTLE, delivery.attempts))

    def _settle(self, route: Route, lane: Lane, following: Following) -> None:
        self._results.settle(lane.head, supersedes=route.parks, forwarded=_forwarded(lane, following))
        self._accepted(route, lane)

    def _reschedule(self, route: Route, lane: Lane, following: Following) -> None:
        forwarded = _forwarded(lane, following)
        self._results.reschedule(
            lane.head, following.due_at, following.reason, supersedes=route.parks, forwarded=forwarded
        )
        self._accepted(route, lane)

    def _drop(self, route: Route, lane: Lane, following: Following) -> None:
        self._results.settle(lane.head, supersedes=False)
        route.advance(lane)

    def _accepted(self, route: Route, lane: Lane) -> None:
        """Released ones of older versions would make the receiver older than it is."""
        delivery = lane.head
        while len(lane.items) > 1 and lane.items[1].seq in lane.released and lane.items[1].version < delivery.version:
            self._results.update(lane.items[1], State.SUPERSEDED, lane.items[1].attempts, 0, "")
            lane.released.discard(lane.items[1].seq)
            del lane.items[1]
            lane.queue.size -= 0 if lane.standing else 1
        route.advance(lane)

    def _wait(self, route: Route, lane: Lane, following: Following) -> None:
        due = min(following.due_at, expires_at(lane.head.created_at, route.policy))
        self._results.update(lane.head, State.PENDING, following.attempts, due, following.reason)
        lane.items[0] = msgspec.structs.replace(lane.head, attempts=following.attempts, due_at=due)
        route.merge_behind(lane)
        if route.stands(lane):
            route.queue.forget(lane)
        else:
            route.wait(lane)

    def _divide(self, route: Route, lane: Lane, following: Following) -> None:
        route.offer(lane)
        route.merge_behind(lane)

    def _park(self, route: Route, lane: Lane, following: Following) -> None:
        self.park(route, lane, following.attempts, following.reason)

    def _hold(self, route: Route, lane: Lane, following: Following) -> None:
        if route.stands(lane):
            route.queue.forget(lane)
        else:
            route.worker.doubt(lane)
            route.merge_behind(lane)

    def _disable(self, route: Route, lane: Lane, following: Following) -> None:
        if route.standing != "disabled":  # else by another one of its batch
            log.warning("subscription disabled", extra={"subscription": route.name, "reason": following.reason})
        self._results.disable(route.id, following.reason)
        route.standing = "disabled"
        route.rewind()

    _STEPS: Mapping[Step, Callable[["Steps", Route, Lane, Following], None]] = {
        Step.SETTLE: _settle,
        Step.RESCHEDULE: _reschedule,
        Step.DIVIDE: _divide,
        Step.DROP: _drop,
        Step.WAIT: _wait,
        Step.PARK: _park,
        Step.HOLD: _hold,
        Step.DISABLE: _disable,
    }


def _forwarded(lane: Lane, following: Following) -> Forwarded | None:
    return Forwarded(lane.head, lane.origin, following.forward) if following.forward else None
