"""What dispatch has to write, and what is not written yet."""

import asyncio

import msgspec
import pytest

from hub.delivery import Attempt, Delivery, Held, OutcomeKind, Receiver, State
from hub.dispatch.results import Results
from hub.store.deliveries import Changes
from hub.store.ledger import OPEN

DELIVERY = Delivery(7, 1, 1, "a", 1, 0, 1, 0, 0, 0)
NAMED = Held(1, 0, b"one", "crm-1", 10, b"account")
UNNAMED = Held(2, 1, b"two", "", 20)
DELETED = Held(2, 2, b"", "", 20)


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


def test_a_delete_takes_the_name_away_before_what_follows_is_stored() -> None:
    """In a transaction of its own: of what names nothing the store would keep the name from before the delete."""
    _, written = _attempted(DELETED, UNNAMED)

    assert [list(changes.ledger.values()) for changes in written] == [[DELETED], [UNNAMED]]


@pytest.mark.parametrize(
    ("second", "known"),
    [
        (UNNAMED, Held(2, 1, b"two", "crm-1", 20, b"account")),
        (DELETED, DELETED),
        (None, Held(1, 0, OPEN, "crm-1", 10, b"account")),  # refused: what it has is open, what it took stays known
    ],
)
def test_two_attempts_of_one_document_are_written_as_one_after_the_other(second: Held | None, known: Held) -> None:
    """They share a store transaction."""
    unwritten, written = _attempted(NAMED, second)

    assert unwritten == {(1, "a", 1): known}
    assert [changes.ledger for changes in written] == [{(1, "a", 1): known}]


def _attempted(*outcomes: Held | None) -> tuple[dict[Receiver, Held | None], list[Changes]]:
    """What is known before any of it is stored, and the store transactions that it then comes to."""
    unwritten: dict[Receiver, Held | None] = {}
    written: list[Changes] = []

    async def write(changes: Changes) -> None:
        written.append(changes)

    async def run() -> None:
        results = Results(write, lambda _: None, lambda _: None)
        for version, held in enumerate(outcomes, start=1):
            delivery = msgspec.structs.replace(DELIVERY, version=version)
            results.attempt(Attempt(delivery, 1, 0, 0, OutcomeKind.DELIVERED, ""), held)
        unwritten.update(results.ledger)
        await results.flush()
        assert results.ledger == {}

    asyncio.run(run())
    return unwritten, written
