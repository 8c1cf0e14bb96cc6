"""The example's legacy application and its receiver, on real sockets and a real Postgres."""

import base64
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import psycopg
import pytest
from standardwebhooks import Webhook

from examples.conference import proof, traffic
from examples.conference.processes import Child
from examples.conference.stage import HERE

pytestmark = pytest.mark.integration

SECRET = "whsec_" + base64.b64encode(b"a secret of the tests").decode()


@pytest.fixture
def conference(pypi_database: str) -> str:
    """The URL of a database with the example's schema and seed."""
    with psycopg.connect(pypi_database) as connection:
        for file in ("schema.sql", "seed.sql"):
            connection.execute((HERE / file).read_bytes())
    return pypi_database


@pytest.fixture
def application(conference: str, tmp_path: Path) -> Iterator[str]:
    """The legacy application's address."""
    child = server("application", tmp_path, "--url", conference)
    yield child.first_line()
    child.stop()


def server(name: str, directory: Path, *arguments: str) -> Child:
    command = [sys.executable, "-m", f"examples.conference.{name}", "--port", "0", *arguments]
    return Child(name, command, directory / f"{name}.log", {"WEBHOOK_SECRET": SECRET})


def test_every_call_changes_a_document(application: str, conference: str) -> None:
    """What the demo counts on: after each call another set of documents is due than before it."""
    documents = [proof.wanted(conference)]

    def make(call: traffic.Call) -> traffic.Answer:
        answer = front.make(call)
        documents.append(proof.wanted(conference))
        return answer

    with traffic.Front(application) as front:
        calls = traffic.play(traffic.showcase(), make) + traffic.play(traffic.visitor(1, 60), make)

    assert calls == len(documents) - 1 == 77
    assert all(before != after for before, after in pairwise(documents))


def test_a_refused_call_leaves_nothing(application: str, conference: str) -> None:
    """An order with a line for an unknown session is not half there."""
    before = proof.wanted(conference)
    lines = [{"session_id": 1, "quantity": 1}, {"session_id": 999, "quantity": 1}]

    with traffic.Front(application) as front, pytest.raises(traffic.Refusal, match="There is no such session"):
        front.make(traffic.Call("", "POST", "/orders", {"attendee_id": 1, "lines": lines}))

    assert before == proof.wanted(conference)


def test_what_cannot_be_read_is_said(application: str) -> None:
    """Bad input, unknown rows and violated rules each have their status and a sentence."""
    with httpx.Client(base_url=application) as client:
        answers = [
            client.post("/orders", content=b"{"),
            client.post("/orders", json={}),
            client.patch("/companies/999", json={"name": "Nobody"}),
            client.post("/attendees", json={"name": "Twin", "email": "guest1@example.org"}),
        ]

    assert [answer.status_code for answer in answers] == [400, 400, 404, 409]
    assert all("error" in answer.json() for answer in answers)


def deliver(address: str, webhook_id: str, body: bytes, secret: str = SECRET) -> httpx.Response:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, body.decode()),
    }
    return httpx.post(f"{address}/crm", content=body, headers=headers)


def test_the_receiver_drops_what_it_has_seen_also_after_a_restart(tmp_path: Path) -> None:
    """An id that comes again is acknowledged and marked; nothing that was acknowledged is forgotten."""
    body = json.dumps({"order": "1"}).encode()
    arguments = ("--log", str(tmp_path / "received.jsonl"))
    first = server("receiver", tmp_path, *arguments)
    try:
        address = first.first_line()
        assert [deliver(address, "a", body).json()["duplicate"] for _ in range(2)] == [False, True]
    finally:
        first.stop()
    second = server("receiver", tmp_path, *arguments)
    try:
        address = second.first_line()
        assert deliver(address, "a", body).json()["duplicate"]
        arrivals = httpx.get(f"{address}/arrivals", params={"after": 1}).json()
        page = httpx.get(address).text
    finally:
        second.stop()

    assert [(arrival["number"], arrival["duplicate"]) for arrival in arrivals] == [(2, True), (3, True)]
    assert "3 arrived, 2 of them dropped as duplicates" in page


def test_the_receiver_takes_nothing_that_is_not_signed(tmp_path: Path) -> None:
    """Another secret's signature, a changed body and no signature at all are refused and not kept."""
    child = server("receiver", tmp_path, "--log", str(tmp_path / "received.jsonl"))
    try:
        address = child.first_line()
        other = "whsec_" + base64.b64encode(b"another secret").decode()
        refused = [deliver(address, "a", b"{}", other), httpx.post(f"{address}/crm", content=b"{}")]
        kept = httpx.get(f"{address}/arrivals").json()
    finally:
        child.stop()

    assert [answer.status_code for answer in refused] == [401, 401]
    assert kept == []
