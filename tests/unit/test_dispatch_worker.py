"""One destination's worker, with a connector that answers at once."""

import asyncio
from collections.abc import Sequence

from hub.clock import Alarms, SystemClock
from hub.delivery import Delivery, Message, Outcome, OutcomeKind
from hub.dispatch.lanes import Lane, Queue
from hub.dispatch.workers import Worker
from hub.project import Limits


class Accepting:
    """hub.connector.Connector"""

    batch = 1

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)

    async def close(self) -> None:
        return None


class Leaving:
    """hub.dispatch.workers.Office: as soon as one is tried, its slice is to be let go."""

    def __init__(self) -> None:
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def messages(self, lanes: Sequence[Lane]) -> list[tuple[Lane, Message]]:
        return [(lane, Message("id", "s", "e", "a", 1, "created", b"", "", 1)) for lane in lanes]

    async def may_probe(self, worker: Worker) -> bool:
        return True

    def require_share(self) -> None:
        return None

    def tried(self, worker: Worker, outcomes: Sequence[tuple[Lane, Outcome]], started_at: int, probe: bool) -> None:
        for lane, _ in outcomes:
            lane.queue.pop(lane)
        leaving = asyncio.get_running_loop().create_task(worker.landed({0}))
        leaving.add_done_callback(lambda task: self.left.set_result(task.result()))

    def broke(self, error: BaseException) -> None:
        self.left.set_exception(error)


def test_slices_are_let_go_while_an_attempt_is_just_ending() -> None:
    """What it settled was the last of its document: there is nothing left to wait for."""

    async def run() -> None:
        office, clock = Leaving(), SystemClock()
        worker = Worker("crm", Accepting(), Limits(), office, clock, Alarms(clock))
        lane = Queue().add(Delivery(1, 1, 1, "a", 1, 0, 1, 0, 0, 0))
        assert lane
        worker.offer(lane)
        worker.pump()
        await asyncio.wait_for(office.left, 5)

    asyncio.run(run())
