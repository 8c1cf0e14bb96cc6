"""What a receiver's answer asks for, held against what its destination may ask for, before anything follows from it."""

from collections.abc import Mapping

import msgspec

from hub.delivery import Forward, Outcome, OutcomeKind
from hub.documents import decode
from hub.project import Destination, EntityConfig

HOPS = 8  # forwards from a source's commit to a document: the longest chain, so that no circle goes on for ever
DOCUMENTS = 1000  # that one answer may forward: they are stored in one transaction
KEY_BYTES = 1000  # of a derived document's key, which is in indexes

_sorted = msgspec.json.Encoder(order="sorted", decimal_format="number")


def admit(outcome: Outcome, destination: Destination, entities: Mapping[str, EntityConfig], hops: int) -> Outcome:
    """The outcome, its forwarded documents in the form that is stored; REFUSED, with the reason, when it asks too much.

    `entities`: the project's, by name; `hops`: of the delivered document. Nothing is lost by a refusal: the delivery is
    parked, and once the project is mended a retry gets the same answer.
    """
    if outcome.kind not in (OutcomeKind.DELIVERED, OutcomeKind.RESCHEDULE):
        return outcome
    try:
        if outcome.kind is OutcomeKind.RESCHEDULE:
            _require(destination, "reschedule")
        if not outcome.forward:
            return outcome
        _require(destination, "forward")
        if hops >= HOPS:
            raise _TooMuch(f"its answer forwards a document that is {HOPS} forwards from the source already")
        if len(outcome.forward) > DOCUMENTS:
            raise _TooMuch(f"its answer forwards {len(outcome.forward)} documents, more than {DOCUMENTS}")
        documents = tuple(_admitted(one, destination.name, entities) for one in outcome.forward)
    except _TooMuch as reason:
        return Outcome(OutcomeKind.REFUSED, f"{reason}. The answer was {outcome.detail}")
    return msgspec.structs.replace(outcome, forward=documents)


class _TooMuch(Exception):
    """Why an answer is not followed, without a stop."""


def _require(destination: Destination, answer: str) -> None:
    if answer not in destination.answers:
        raise _TooMuch(f"{destination.name} may not {answer}: add `answers: [{answer}]` to it")


def _admitted(one: Forward, destination: str, entities: Mapping[str, EntityConfig]) -> Forward:
    entity = entities.get(one.entity)
    named = f"its answer forwards {one.entity!r}"
    if entity is None:
        raise _TooMuch(f"{named}, and there is no such entity")
    if not entity.derived:
        raise _TooMuch(f"{named}, which is made from a table: only derived entities can be forwarded")
    if destination not in entity.derived_from:
        raise _TooMuch(f"{named}, whose `from` does not name {destination}")
    if not _is_key(one.key):
        raise _TooMuch(f"{named} with a key that is empty, longer than {KEY_BYTES} bytes or has a NUL character")
    return msgspec.structs.replace(one, data=None if one.data is None else stored_form(one.data, named))


def _is_key(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= KEY_BYTES and "\0" not in text
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def stored_form(data: bytes, named: str) -> bytes:
    """A document's JSON with its fields in order, so that the same data is the same bytes, however it was written."""
    try:
        tree = decode(data)
        if isinstance(tree, dict):
            return _sorted.encode(tree)
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass
    raise _TooMuch(f"{named} with data that is no JSON object")
