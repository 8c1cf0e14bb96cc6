"""A delivery says what its subscription wants said: a CloudEvent, or the body of templates."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from cloudevents.v1.http import from_json

from hub.catalogue import Kind
from hub.documents import Cause, Event, Field, Shape, decode
from hub.errors import InputError
from hub.project import SubscriptionConfig
from hub.subscriptions import Subscription
from hub.subscriptions.bodies import MAX_PARTS, Body, BodyInputs, render_body
from hub.subscriptions.templates import TemplateFailure

SHAPE = Shape({"id": Field(Kind.INTEGER), "status": Field(Kind.TEXT), "exact": Field(Kind.JSON)}, key=("id",))
BEFORE = b'{"id":42,"status":"open","exact":0.1000000000000000000000000000001}'
AFTER = b'{"id":42,"status":"paid","exact":0.1000000000000000000000000000001}'


def inputs(event: Event, document: bytes | None = AFTER, before: bytes | None = BEFORE) -> BodyInputs:
    return BodyInputs(
        hub="conference",
        source="main",
        delivery_id="msg_1",
        entity="order",
        key="42",
        version=7,
        event=event,
        cause=Cause.ROW,
        lsn="0/16B3748",
        transaction=731,
        committed_at=1_700_000_000_123_456,
        document=document,
        before=before,
    )


def subscription(body: Any = None) -> Subscription:
    return Subscription.compile(SubscriptionConfig("crm", "order", "crm", body=body), SHAPE)


def render(body: Any, event: Event = Event.UPDATED) -> Any:
    rendered = render_body(subscription(body), inputs(event))
    assert rendered.content_type == "application/json"
    return decode(rendered.content)


def test_cloud_event() -> None:
    """The default body is a CloudEvents 1.0 event in structured JSON, the document's bytes verbatim."""

    assert render_body(subscription(), inputs(Event.UPDATED)) == Body(
        "application/cloudevents+json",
        b'{"specversion":"1.0","id":"msg_1","source":"hub/conference","type":"order.updated","subject":"42",'
        b'"time":"2023-11-14T22:13:20.123456Z","datacontenttype":"application/json","hubversion":7,"hubcause":"row",'
        b'"data":{"document":' + AFTER + b',"before":' + BEFORE + b',"changed":["status"]}}',
        kept=AFTER,
    )


@pytest.mark.parametrize("event", list(Event))
def test_cloud_event_parses(event: Event) -> None:
    """The package `cloudevents` reads every event."""

    parsed = from_json(render_body(subscription(), inputs(event)).content)
    assert parsed["type"] == f"order.{event.value}"
    assert parsed["source"] == "hub/conference"
    assert parsed["subject"] == "42"
    assert parsed["hubversion"] == 7
    assert datetime.fromisoformat(str(parsed["time"])) == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "document", "before", "changed"),
    [
        (Event.CREATED, "paid", None, []),
        (Event.UPDATED, "paid", "open", ["status"]),
        (Event.DELETED, None, "open", []),
    ],
)
def test_what_an_event_shows(event: Event, document: str | None, before: str | None, changed: list[str]) -> None:
    """On created there is no before; on deleted no document, so a leave shows nothing from outside the set."""

    data = json.loads(render_body(subscription(), inputs(event)).content)["data"]
    assert (data["document"] and data["document"]["status"]) == document
    assert (data["before"] and data["before"]["status"]) == before
    assert data["changed"] == changed


def test_template_body() -> None:
    """Maps and lists stay, strings are templates, other scalars stay what they are."""

    body = {
        "status": "{{ doc.status }}",
        "was": "{{ before.status }}",
        "list": ["{{ key }}", {"version": "{{ version }}"}, 1, 0.1, True, None, "plain"],
        "text": "{{ event }} by {{ cause }}: {{ changed | join(',') }}",
        "exact": "{{ doc.exact }}",
        "meta": "{{ meta }}",
    }
    assert render(body) == {
        "status": "paid",
        "was": "open",
        "list": ["42", {"version": 7}, 1, Decimal("0.1"), True, None, "plain"],
        "text": "updated by row: status",
        "exact": Decimal("0.1000000000000000000000000000001"),
        "meta": {
            "hub": "conference",
            "source": "main",
            "lsn": "0/16B3748",
            "transaction": 731,
            "committed_at": "2023-11-14T22:13:20.123456Z",
        },
    }


def test_what_templates_see() -> None:
    """On created, `before` is null; on deleted, `doc` is the last version that was in the set."""

    body = {"doc": "{{ doc.status }}", "before": "{{ before }}"}
    assert render(body, Event.CREATED) == {"doc": "paid", "before": None}
    assert render(body, Event.DELETED) == {"doc": "open", "before": decode(BEFORE)}


def test_body_per_event() -> None:
    """A map of events alone is a body per event; default stands for the others."""

    body = {"deleted": {"gone": "{{ key }}"}, "default": {"is": "{{ doc.status }}"}}
    assert render(body, Event.DELETED) == {"gone": "42"}
    assert render(body, Event.CREATED) == render(body, Event.UPDATED) == {"is": "paid"}


def test_an_event_without_a_body_is_a_cloud_event() -> None:
    """What is left out is as when `body` is left out."""

    rendered = render_body(subscription({"deleted": {"gone": 1}}), inputs(Event.UPDATED))
    assert rendered.content_type == "application/cloudevents+json"


def test_one_string_is_a_body() -> None:
    """A body may be a single template."""

    assert render("{{ doc }}") == decode(AFTER)


def test_a_failing_template_names_its_place() -> None:
    """The place is the path inside the body, then line and column."""

    with pytest.raises(
        TemplateFailure, match=r"^body\.default\.rows\[1\]\.x, line 1, column 3: There is no nope in it"
    ):
        render({"default": {"rows": [1, {"x": "a {{ doc.nope }}"}]}})


def test_a_mistake_names_its_place() -> None:
    """So does a template that is not well formed."""

    with pytest.raises(
        InputError, match=r"^body\.rows\[1\], line 1, column 1: There is no docs here\. Did you mean doc"
    ):
        subscription({"rows": ["x", "{{ docs }}"]})


def test_all_templates_of_a_body_share_one_budget() -> None:
    """Many small loops are one large one."""

    loop = "{% for i in range(90000) %}{% endfor %}x"
    assert render([loop]) == ["x"]
    with pytest.raises(TemplateFailure, match="too many steps"):
        render([loop] * 20)


def test_a_body_has_a_bounded_number_of_parts() -> None:
    """Lists that name each other again and again are refused."""

    body: Any = ["x"]
    for _ in range(64):
        body = [body, body]
    with pytest.raises(InputError, match=str(MAX_PARTS)):
        subscription(body)


def test_not_a_number_is_text() -> None:
    """JSON has no NaN: it is written as documents write it."""

    assert render({"x": float("nan"), "y": "{{ 'NaN' }}"}) == {"x": "NaN", "y": "NaN"}
