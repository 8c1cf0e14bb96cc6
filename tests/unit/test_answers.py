"""What an answer asks for: read by the connector, held against what may be asked, planned from the set."""

import math
from typing import Any

import pytest

from connectors.answer import read_answer
from hub.delivery import Forward, Outcome, OutcomeKind
from hub.dispatch.answers import DOCUMENTS, HOPS, admit
from hub.dispatch.rescheduling import plan_again
from hub.documents import Cause, Event, Shape
from hub.project import Destination, EntityConfig, SubscriptionConfig
from hub.subscriptions import Planned, Subscription

BOTH = ("reschedule", "forward")
ENTITIES = {
    "order": EntityConfig("order", "main", "public.orders"),
    "lead_score": EntityConfig("lead_score", "", "", derived=True, derived_from=("crm",)),
}
CRM = Destination("crm", "http", answers=BOTH)


def read(content: str = "", header: str | None = None, answers: tuple[str, ...] = BOTH) -> Outcome:
    return read_answer(content.encode(), header, answers, "200 OK")


@pytest.mark.parametrize(
    ("content", "header", "after"),
    [
        ("", "3600", 3600.0),
        ("", " 1h ", 3600.0),
        ('{"reschedule": {"after": "1h"}}', None, 3600.0),
        ('{"reschedule": {"after": 90}}', None, 90.0),
        ('{"reschedule": {"after": "1.5", "more": 1}}', "7", 1.5),
        (' {"reschedule": null}', "7", 7.0),
    ],
)
def test_a_time_is_read(content: str, header: str | None, after: float) -> None:
    """A duration or seconds; the body before the header."""
    outcome = read(content, header)

    assert (outcome.kind, outcome.after) == (OutcomeKind.RESCHEDULE, after)


def test_the_reason_is_the_outcomes() -> None:
    """On one line, and without what a store cannot hold."""
    outcome = read('{"reschedule": {"after": 1, "reason": "quota\\u0000\\n is  used up"}}')

    assert outcome.detail == "quota is used up"


def test_documents_are_read() -> None:
    """Keys as text, data as it was written, null for none."""
    outcome = read(
        '{"forward": [{"entity": "a", "key": 7, "data": {"x": 1.50}}, {"entity": "a", "key": "8", "data": null}]}'
    )

    assert outcome.kind is OutcomeKind.DELIVERED
    assert outcome.forward == (Forward("a", "7", b'{"x": 1.50}'), Forward("a", "8", None))


@pytest.mark.parametrize(
    "content", ["", "ok", "[]", "<html>", '{"status": "ok"}', '{"forward": []}', '{"forward":null}']
)
def test_an_answer_that_asks_for_nothing_is_delivered(content: str) -> None:
    """Whatever it is."""
    assert read(content) == Outcome(OutcomeKind.DELIVERED, "200 OK")


def test_what_may_not_be_asked_is_not_looked_at() -> None:
    """The words may mean something else to that receiver."""
    assert read('{"reschedule": 5, "forward": 7}', "soon", ()) == Outcome(OutcomeKind.DELIVERED, "200 OK")
    assert read('{"reschedule": {"after": 5}, "forward": 7}', None, ("reschedule",)).after == 5.0


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ('{"forward": [{"entity": "a", "key": "1"', None),  # cut off
        ('{"forward": [{"entity": "a", "key": "1"}]}', None),
        ('{"forward": {"entity": "a"}}', None),
        ('{"reschedule": "1h"}', None),
        ('{"reschedule": {"after": -1}}', None),
        ('{"reschedule": {"after": 1e300}}', None),
        ('{"reschedule": {"after": ' + "9" * 400 + "}}", None),
        ('{"reschedule": {"after": "soon"}}', None),
        ('{"reschedule": {"reason": "quota"}}', None),
        ("", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("", "²"),
        ('{"forward": ' + "[" * 100_000, None),
    ],
)
def test_an_answer_that_is_not_clear_is_refused(content: str, header: str | None) -> None:
    """Rather than lost."""
    outcome = read(content, header)

    assert outcome.kind is OutcomeKind.REFUSED
    assert "not clear" in outcome.detail


def admitted(*documents: Forward, destination: Destination = CRM, hops: int = 0, **fields: Any) -> Outcome:
    outcome = Outcome(OutcomeKind.DELIVERED, "200 OK", forward=documents)
    return admit(outcome, destination, ENTITIES, hops)


def test_the_same_data_is_the_same_bytes() -> None:
    """In whatever order and spacing it was written, at every depth; no digit is lost."""
    first = admitted(Forward("lead_score", "1", b'{"b": {"z": 1.50, "a": 12345678901234567890123}, "a": [2, 1]}'))
    second = admitted(Forward("lead_score", "1", b'{"a":[2,1],"b":{"a":12345678901234567890123,"z":1.50}}'))

    assert first == second
    assert first.forward[0].data == b'{"a":[2,1],"b":{"a":12345678901234567890123,"z":1.50}}'


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Forward("order", "1", b"{}"), "made from a table"),
        (Forward("score", "1", b"{}"), "no such entity"),
        (Forward("lead_score", "", b"{}"), "empty"),
        (Forward("lead_score", "x" * 1001, b"{}"), "longer than 1000 bytes"),
        (Forward("lead_score", "\ud800", b"{}"), "key"),
        (Forward("lead_score", "1", b"[]"), "no JSON object"),
        (Forward("lead_score", "1", b'{"a": NaN}'), "no JSON object"),
        (Forward("lead_score", "1", b'{"a": ' + b"[" * 100_000), "no JSON object"),
    ],
)
def test_what_may_not_be_forwarded_is_refused_with_all_of_the_answer(document: Forward, reason: str) -> None:
    """Nothing of it is followed by halves."""
    outcome = admitted(Forward("lead_score", "1", b"{}"), document)

    assert (outcome.kind, outcome.forward) == (OutcomeKind.REFUSED, ())
    assert reason in outcome.detail


def test_who_may_not_ask_is_refused() -> None:
    """Also where a connector of a project's own asks in its place."""
    mute = Destination("crm", "own")
    shop = Destination("shop", "http", answers=BOTH)

    assert "`answers: [forward]`" in admitted(Forward("lead_score", "1", b"{}"), destination=mute).detail
    assert "does not name shop" in admitted(Forward("lead_score", "1", b"{}"), destination=shop).detail
    asked = admit(Outcome(OutcomeKind.RESCHEDULE, after=1.0), mute, ENTITIES, 0)
    assert (asked.kind, "`answers: [reschedule]`" in asked.detail) == (OutcomeKind.REFUSED, True)


def test_a_chain_and_an_answer_have_an_end() -> None:
    """The eighth forward is the last, and a thousand documents are the most."""
    document = Forward("lead_score", "1", b"{}")

    assert admitted(document, hops=HOPS - 1).kind is OutcomeKind.DELIVERED
    assert admitted(document, hops=HOPS).kind is OutcomeKind.REFUSED
    assert admitted(*[document] * DOCUMENTS).kind is OutcomeKind.DELIVERED
    assert admitted(*[document] * (DOCUMENTS + 1)).kind is OutcomeKind.REFUSED


def test_other_outcomes_pass_as_they_are() -> None:
    """What was not accepted issues nothing."""
    retry = Outcome(OutcomeKind.RETRY, "503", after=math.inf)

    assert admit(retry, CRM, ENTITIES, HOPS) is retry


PAID = Subscription.compile(
    SubscriptionConfig("s", "order", "crm", match={"status": "paid"}, on=("updated",)), Shape({})
)


@pytest.mark.parametrize(
    ("earlier", "newest", "again"),
    [
        (Event.CREATED, b'{"status": "paid"}', Event.CREATED),
        (Event.UPDATED, b'{"status": "paid"}', Event.UPDATED),
        (Event.UPDATED, b'{"status": "open"}', None),
        (Event.UPDATED, None, None),
        (Event.DELETED, None, Event.DELETED),
        (Event.DELETED, b'{"status": "open"}', Event.DELETED),
        (Event.DELETED, b'{"status": "paid"}', Event.CREATED),
    ],
)
def test_a_rescheduled_document_is_matched_anew(earlier: Event, newest: bytes | None, again: Event | None) -> None:
    """By the set alone: the receiver itself asked, whatever `on` says."""
    planned = plan_again(PAID, Planned(earlier, Cause.ROW, 3), newest)

    assert (planned.event if planned else None) is again


def test_a_set_that_cannot_say_parks() -> None:
    """As it does for any other delivery."""
    config = SubscriptionConfig("s", "order", "crm", where="doc.missing.field > 1")
    planned = plan_again(Subscription.compile(config, Shape({})), Planned(Event.UPDATED, Cause.ROW, 3), b"{}")

    assert planned
    assert planned.failure.startswith("where: ")
