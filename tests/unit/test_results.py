"""What dispatch has to write, and what is not written yet."""

import asyncio

from hub.delivery import Delivery, State
from hub.dispatch.results import Results
from hub.store.deliveries import Changes

DELIVERY = Delivery(7, 1, 1, "a", 1, 0, 1, 0, 0, 0)


def test_a_delivery_is_unwritten_until_its_last_outcome_is_stored() -> None:
    """Its retry was accepted while the store was taking that it had to wait: who reads it now must not send it."""
    unwritten: list[set[int]] = []

    async def run() -> None:
        async def write(_: Changes) -> None:
            if not unwritten:
                results.settle(DELIVERY, supersedes=False)

        results = Results(write, lambda _: None, lambda _: unwritten.append(set(results.writing)))
        results.update(DELIVERY, State.PENDING, 1, 1, "500")
        await results.flush()

    asyncio.run(run())

    assert unwritten == [{7}, set()]
