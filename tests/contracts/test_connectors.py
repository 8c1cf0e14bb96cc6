"""The obligations of hub/connector.py, for every connector and for the tests' own double."""

import asyncio
import base64
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import cloudevents.core.bindings.http as cloudevents_http
import httpx
import pytest
import standardwebhooks

from connectors.declarative import read_definition
from connectors.http import HttpSettings, retry_after
from connectors.transport import AiohttpTransport, Wire
from hub.bootstrap import find_connectors
from hub.connector import ConnectorKind, read_settings, settings_problems
from hub.delivery import Message, Outcome, OutcomeKind
from hub.discovery import UnknownConnector
from hub.errors import ProjectError
from hub.kit.running import run_kit
from hub.project import Destination, Limits, Network, Place
from tests.receiver import Receiver

EVENT = {"specversion": "1.0", "id": "msg_1", "source": "hub/x", "type": "order.created", "data": {"n": 1}}
LOCALHOST = Network((ip_network("127.0.0.0/8"),))
find = find_connectors(None)


def message(number: int = 1, content: bytes | None = None) -> Message:
    body = content or json.dumps({**EVENT, "id": f"msg_{number}"}).encode()
    return Message(f"msg_{number}", "crm", "order", str(number), 1, "created", body, "application/cloudevents+json", 1)


def deliver(name: str, settings: dict[str, Any], *messages: Message, limits: Limits | None = None) -> list[Outcome]:
    """Open the connector, deliver once with the attempt's time limit, close it."""

    async def run() -> Sequence[Outcome]:
        destination = Destination("crm", name, settings=settings)
        kind = find(name)
        within = replace(limits or Limits(), network=LOCALHOST)
        connector = kind.open(read_settings(kind, destination), within)
        try:
            async with asyncio.timeout(within.timeout):
                return await connector.deliver(messages or [message()])
        finally:
            await connector.close()

    return list(asyncio.run(run()))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as receiver:
        yield receiver


# Every connector


@pytest.mark.parametrize("name", ["http", "file"])
def test_there_is_an_outcome_for_each_message(name: str, receiver: Receiver, tmp_path: Path) -> None:
    """In their order."""

    settings = {"http": {"url": receiver.url}, "file": {"path": str(tmp_path / "out.jsonl")}}[name]
    messages = [message(number) for number in range(5)]

    assert [one.kind for one in deliver(name, settings, *messages)] == [OutcomeKind.DELIVERED] * 5


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("http", {"url": "http://127.0.0.1:9/"}),
        ("file", {"path": "/proc/none/out.jsonl"}),
        ("sql", {"url": "postgresql://hub@127.0.0.1:9/none", "table": "orders", "key": "id"}),
    ],
)
def test_an_unreachable_destination_is_held(name: str, settings: dict[str, Any]) -> None:
    """It says nothing of the document."""

    assert [one.kind for one in deliver(name, settings)] == [OutcomeKind.HELD]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/", "Cannot connect to 127.0.0.1:9: Connection refused."),
        ("https://localhost:9/", "Cannot connect to localhost:9: Connection refused."),
        ("http://nowhere.invalid/", "Cannot connect to nowhere.invalid:80: Name or service not known."),
    ],
)
def test_an_unreachable_destination_is_said_plainly(url: str, said: str) -> None:
    """Where to and why, as an operator would put it; of TLS, see what is checked by name."""

    assert deliver("http", {"url": url})[0].detail == said


@pytest.mark.parametrize("name", sorted(find.found()))
def test_the_conformance_kit_passes(name: str) -> None:
    """Every check of it, against its hostile server."""

    verdicts = asyncio.run(run_kit(name, find(name)))

    assert len([one for one in verdicts if not (one.fault or one.not_tried)]) >= 4
    assert [f"{verdict.check}: {verdict.fault}" for verdict in verdicts if verdict.fault] == []


def test_the_definition_that_the_page_shows_passes() -> None:
    """What an author copies works."""

    page = (Path(__file__).parents[2] / "docs/connectors/declarative.md").read_text("utf-8")
    shown = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    verdicts = asyncio.run(run_kit("acme", read_definition("connectors/acme.yaml", shown.encode())))

    assert len(verdicts) > 20
    assert [f"{verdict.check}: {verdict.fault}" for verdict in verdicts if verdict.fault] == []


def test_the_definition_that_finds_on_the_page_passes() -> None:
    """With its own cases."""

    page = (Path(__file__).parents[2] / "docs/connectors/declarative.md").read_text("utf-8")
    shown = page.split("## Finding first", 1)[1].split("```yaml\n", 1)[1].split("```", 1)[0]
    verdicts = asyncio.run(run_kit("birch", read_definition("connectors/birch.yaml", shown.encode())))

    assert {"update", "create", "delete"} <= {verdict.request for verdict in verdicts}
    assert [f"{verdict.check}: {verdict.fault}" for verdict in verdicts if verdict.fault] == []


def test_connectors_are_found_by_their_files_name() -> None:
    """A module without CONNECTOR is none, and a wrong name gets the nearest one."""

    assert isinstance(find("http"), ConnectorKind)
    with pytest.raises(UnknownConnector, match="Did you mean 'http'"):
        find("htp")
    with pytest.raises(UnknownConnector):
        find("transport")


def test_unknown_and_mistyped_settings_name_their_place() -> None:
    """With a suggestion."""

    place = Place("destinations/crm.yaml", 4, 1)
    destination = Destination(
        "crm", "http", settings={"url": "https://x.example", "secrt": "a"}, places={"secrt": place}
    )

    problems = settings_problems(find("http"), destination)
    assert [str(problem) for problem in problems] == [
        "destinations/crm.yaml:4:1: The connector http has no setting 'secrt'. Did you mean 'secret'?"
    ]
    with pytest.raises(ProjectError, match="'url'"):
        read_settings(find("http"), Destination("crm", "http", settings={"url": 5}))
    with pytest.raises(ProjectError, match="needs 'path'"):
        read_settings(find("file"), Destination("crm", "file"))


def test_a_connector_that_reads_no_answers_says_so() -> None:
    """Nothing that is written is silently left undone."""

    destination = Destination("archive", "file", answers=("forward",), settings={"path": "-"})
    (problem,) = settings_problems(find("file"), destination)

    assert "The connector file has no setting 'answers'." in problem.what


# http


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, OutcomeKind.DELIVERED) for status in (200, 201, 202, 204, 299)],
        *[(status, OutcomeKind.HELD) for status in (301, 302, 307, 308, 304, 401, 403, 407, 502, 503, 504, 600, 999)],
        *[(status, OutcomeKind.RETRY) for status in (408, 421, 425, 429, 500, 501, 507, 599)],
        *[(status, OutcomeKind.REFUSED) for status in (400, 404, 405, 409, 413, 422, 451)],
        (410, OutcomeKind.DEAD),
    ],
)
def test_http_statuses(status: int, kind: OutcomeKind, receiver: Receiver) -> None:
    """As the contract lists them; no redirect is followed."""

    headers = {"location": receiver.url + "/elsewhere"} if 300 <= status < 400 else {}
    receiver.behave(status=status, headers=headers)

    outcome = deliver("http", {"url": receiver.url})[0]
    assert (outcome.kind, outcome.after, len(receiver.log())) == (kind, None, 1)


@pytest.mark.parametrize("status", [429, 503])
def test_http_retry_after_is_a_time(status: int, receiver: Receiver) -> None:
    """In seconds or as a date; what is neither counts as none."""

    receiver.behave(status=status, headers={"retry-after": "120"})
    assert deliver("http", {"url": receiver.url})[0] == Outcome(OutcomeKind.RETRY, f"{_head(status)}", after=120.0)

    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 1445412480 - 60) == 60.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 1445412480 + 60) == 0.0
    assert retry_after("soon", 0) is None
    assert retry_after("-5", 0) is None


def _head(status: int) -> str:
    return {429: "429 Too Many Requests", 503: "503 Service Unavailable"}[status]


@pytest.mark.parametrize("mode", ["garbage", "reset"])
def test_http_what_is_no_answer_is_a_connection_fault(mode: str, receiver: Receiver) -> None:
    """The destination's, not the document's."""

    receiver.behave(mode=mode)

    assert deliver("http", {"url": receiver.url})[0].kind is OutcomeKind.HELD


@pytest.mark.parametrize("mode", ["drip", "huge"])
def test_http_an_endless_answer_is_cut(mode: str, receiver: Receiver) -> None:
    """The status counts; the body is bounded in bytes and in time."""

    receiver.behave(mode=mode)
    started = time.monotonic()

    outcome = deliver("http", {"url": receiver.url})[0]
    assert outcome.kind is OutcomeKind.DELIVERED
    assert len(outcome.detail) <= 500
    assert time.monotonic() - started < 8


def test_http_a_silent_receiver_ends_with_the_attempts_time(receiver: Receiver) -> None:
    """Which the caller sets: the connector may be cancelled."""

    receiver.behave(mode="silent")

    with pytest.raises(TimeoutError):
        deliver("http", {"url": receiver.url}, limits=Limits(timeout=0.5))


def test_http_signature_verifies_with_the_official_library(receiver: Receiver) -> None:
    """Of rotating secrets either one verifies; the body is what was rendered, byte by byte."""

    old = "whsec_" + base64.b64encode(b"o" * 24).decode()
    new = "whsec_" + base64.b64encode(b"n" * 24).decode()
    deliver("http", {"url": receiver.url, "secret": [new, old]})

    entry = receiver.log()[0]
    for secret in (old, new):
        assert standardwebhooks.Webhook(secret).verify(entry.body, entry.headers)["id"] == "msg_1"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(base64.b64encode(b"x" * 24).decode()).verify(entry.body, entry.headers)


def test_http_event_parses_with_the_official_library(receiver: Receiver) -> None:
    """CloudEvents 1.0, structured mode."""

    deliver("http", {"url": receiver.url})
    entry = receiver.log()[0]
    event = cloudevents_http.from_http_event(cloudevents_http.HTTPMessage(entry.headers, entry.body))

    assert (event.get_type(), event.get_id(), event.get_data()) == ("order.created", "msg_1", {"n": 1})


def test_http_headers(receiver: Receiver) -> None:
    """The id, one trace for all attempts with a span for each, the integrator's own; no proxy, no compression."""

    os.environ["HTTP_PROXY"] = "http://127.0.0.1:9"
    try:
        for _ in range(2):
            deliver("http", {"url": receiver.url, "headers": {"X-Tenant": "7"}})
    finally:
        del os.environ["HTTP_PROXY"]

    first, second = (entry.headers for entry in receiver.log())
    assert first["content-type"] == "application/cloudevents+json"
    assert first["webhook-id"] == second["webhook-id"] == "msg_1"
    assert first["traceparent"][:35] == second["traceparent"][:35]
    assert first["traceparent"][36:52] != second["traceparent"][36:52]
    assert (first["x-tenant"], first["accept-encoding"]) == ("7", "identity")
    assert abs(int(first["webhook-timestamp"]) - time.time()) < 60


def test_http_details_hold_no_secret(receiver: Receiver) -> None:
    """A receiver that echoes what it got does not bring it into the store."""

    receiver.behave(status=422, body="signature by hush-hush failed for token-1 and s3cr3t")
    url = receiver.url.replace("http://", "http://me:s3cr3t@")

    outcome = deliver("http", {"url": url, "secret": "hush-hush", "headers": {"authorization": "token-1"}})[0]
    assert outcome.detail == "422 Unprocessable Entity: signature by *** failed for *** and ***"


def test_http_details_hold_no_secret_in_another_form(receiver: Receiver) -> None:
    """As it goes over the wire, without what stands before it, and from the query."""

    basic = base64.b64encode(b"me:p@ss/word").decode()
    receiver.behave(status=422, body=f"Basic {basic} p@ss/word p%40ss%2Fword tok-abc c2VjcmV0 k3y-value\r\nand more")
    url = receiver.url.replace("http://", "http://me:p%40ss%2Fword@") + "?key=k3y-value"
    settings = {"url": url, "secret": "whsec_c2VjcmV0", "headers": {"x-auth": "Bearer tok-abc"}}

    assert deliver("http", settings)[0].detail == "422 Unprocessable Entity: Basic *** *** *** *** *** *** and more"


def test_http_credentials_in_the_url_are_sent_as_basic(receiver: Receiver) -> None:
    """And are in no request line."""

    deliver("http", {"url": receiver.url.replace("http://", "http://me:s3cr3t@")})

    entry = receiver.log()[0]
    assert entry.headers["authorization"] == "Basic " + base64.b64encode(b"me:s3cr3t").decode()
    assert entry.path == "/hooks"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"url": "crm.example.com"}, "url"),
        ({"url": "ftp://crm.example.com"}, "url"),
        ({"url": "https://x.example", "headers": {"X-A": "1\r\nX-B: 2"}}, "line break"),
        ({"url": "https://x.example", "headers": {"X A": "1"}}, "header name"),
        ({"url": "https://x.example", "headers": {"Webhook-Id": "1"}}, "set by the hub"),
        ({"url": "https://x.example", "secret": "whsec_!"}, "base64"),
        ({"url": "https://x.example", "method": "GET"}, "POST"),
        ({"url": "https://x.example", "proxy": "proxy:3128"}, "proxy"),
        ({"url": "https://x.example", "ca_file": "/none.pem"}, "certificates"),
    ],
)
def test_http_wrong_settings_are_refused(settings: dict[str, Any], what: str) -> None:
    """Before anything is sent."""

    with pytest.raises(ProjectError, match=what):
        read_settings(find("http"), Destination("crm", "http", settings=settings))


def test_http_settings_keep_secrets_out_of_the_destinations_repr() -> None:
    """What is logged by accident shows none."""

    destination = Destination("crm", "http", settings={"url": "https://x.example", "secret": "hush"})

    assert "hush" not in repr(destination)
    assert HttpSettings("https://x.example", secret=["a", "", "b"]).secrets == ["a", "b"]


def test_the_wire_sends_a_text_as_it_is_written(receiver: Receiver) -> None:
    """What is quoted stays so; who asks is said, unless the headers say it; nothing compressed is asked for."""

    async def run() -> None:
        wire = Wire(Limits(network=LOCALHOST))
        try:
            await wire.exchange("POST", f"{receiver.url}/%2E%2E/a%2Fb?c=%2B", {"x-a": "1"})
            await wire.exchange("POST", receiver.url, {"User-Agent": "birch/1"}, b"{}")
        finally:
            await wire.close()

    asyncio.run(run())

    first, second = receiver.log()
    assert (first.path, first.headers["x-a"]) == ("/hooks/%2E%2E/a%2Fb?c=%2B", "1")
    assert (first.headers["user-agent"][:4], first.headers["accept-encoding"]) == ("hub/", "identity")
    assert (second.headers["user-agent"], second.body) == ("birch/1", b"{}")


def test_httpx_is_the_face_of_the_same_wire(receiver: Receiver) -> None:
    """An httpx.AsyncClient over it, for connectors written by integrators."""

    receiver.behave(status=201, body="made", headers={"x-a": "1"})

    async def run() -> httpx.Response:
        transport = AiohttpTransport(Wire(Limits(concurrency=2, network=LOCALHOST)))
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:9/")
            return await client.post(receiver.url + "?a=%2F", json={"n": 1}, headers={"x-b": "2"})

    answer = asyncio.run(run())

    assert (answer.status_code, answer.text, answer.headers["x-a"]) == (201, "made", "1")
    entry = receiver.log()[0]
    assert (entry.json, entry.path, entry.headers["x-b"]) == ({"n": 1}, "/hooks?a=%2F", "2")


# file


def test_file_appends_a_line_a_delivery(tmp_path: Path) -> None:
    """The body as the JSON that it is, what names it beside."""

    path = tmp_path / "out.jsonl"
    deliver("file", {"path": str(path)}, message(1), message(2))
    deliver("file", {"path": str(path)}, message(3))

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["msg_1", "msg_2", "msg_3"]
    assert lines[0]["body"]["data"] == {"n": 1}
    assert list(lines[0]) == ["id", "subscription", "entity", "key", "version", "event", "attempt", "body"]


def test_file_ends_a_line_that_a_crash_cut(tmp_path: Path) -> None:
    """So that the next one is whole."""

    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "msg_0"}\n{"id": "ms')
    deliver("file", {"path": str(path)}, message(1))

    lines = path.read_bytes().splitlines()
    assert lines[1] == b'{"id": "ms'
    assert json.loads(lines[2])["id"] == "msg_1"


def test_file_on_a_full_disk_is_held() -> None:
    """And nothing counts as delivered."""

    outcome = deliver("file", {"path": "/dev/full"})[0]

    assert outcome.kind is OutcomeKind.HELD
    assert "No space left" in outcome.detail
