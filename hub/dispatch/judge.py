"""What attempts, and other workers, say of a destination: its health is judged by it, told in the log, and stored."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from hub.clock import Clock
from hub.delivery import Delivery, Outcome, OutcomeKind
from hub.dispatch.health import DestinationState
from hub.dispatch.lanes import Queue
from hub.dispatch.outcomes import SECOND, Following
from hub.dispatch.results import Results
from hub.dispatch.routes import Route
from hub.dispatch.steps import Steps
from hub.dispatch.workers import Worker

log = logging.getLogger("hub.dispatch.judge")


class Judge:
    def __init__(
        self,
        routes: Mapping[Queue, Route],
        steps: Steps,
        results: Results,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._routes = routes
        self._steps = steps
        self._results = results
        self._clock = clock
        self._jitter = jitter

    def judge(self, worker: Worker, delivery: Delivery, outcome: Outcome, started_at: int, probe: bool) -> None:
        """By an attempt of our own, whose step was taken."""
        health, was_held = worker.health, worker.health.held
        if outcome.kind is OutcomeKind.HELD:
            health.fail(delivery.seq, outcome.detail, probe=probe, now=self._clock.now(), jitter=self._jitter())
        elif outcome.kind in (OutcomeKind.DELIVERED, OutcomeKind.RESCHEDULE):
            self._park_blamed(worker, health.accept(delivery.seq, started_at))
        elif probe:
            health.answer(delivery.seq, self._clock.now())
        if health.held != was_held:
            self._tell(worker)
        if health.held or was_held:
            self._remember(worker)

    def hear(self, worker: Worker, state: DestinationState) -> None:
        """By what another worker found out."""
        health = worker.health
        if state.held_since:
            told = health.held
            health.hold(state)
            if not told:
                self._tell(worker)
        elif health.held:
            self._park_blamed(worker, health.accept(0, self._clock.now()))
            self._tell(worker)
        else:
            health.pause(state.probe_at, state.reason)

    def pause(self, worker: Worker, following: Following) -> None:
        """The receiver asked for time."""
        if worker.health.paused_until <= self._clock.now() < following.due_at:  # else it is known
            until = datetime.fromtimestamp(following.due_at // SECOND, UTC).isoformat()
            told = {"destination": worker.name, "until": until, "reason": following.reason}
            log.warning("destination asks for time", extra=told)
        worker.health.pause(following.due_at, following.reason)
        self._remember(worker)

    def _park_blamed(self, worker: Worker, blamed: Mapping[int, str]) -> None:
        for seq, reason in blamed.items():
            lane = worker.take_doubtful(seq)
            if lane is not None:
                route = self._routes[lane.queue]
                self._steps.park(route, lane, lane.head.attempts + 1, f"Refused, while others are accepted: {reason}")

    def _tell(self, worker: Worker) -> None:
        if worker.health.held:
            log.warning("destination held", extra={"destination": worker.name, "reason": worker.health.reason})
        else:
            log.warning("destination well again", extra={"destination": worker.name})

    def _remember(self, worker: Worker) -> None:
        self._results.remember(worker.name, worker.health.state(self._clock.now()))
