"""Kafka Connect's REST interface, by a transport that answers as Connect does."""

import json
from collections.abc import Callable
from itertools import pairwise

import httpx
import pytest

from cdc import connect
from cdc.connect import MISSING, Connect, Keeper
from cdc.settings import StreamSettings, connect_settings
from hub.catalogue import Catalogue
from hub.errors import FaultError, InputError, OutsideError

TRACE = """org.apache.kafka.connect.errors.ConnectException: Could not start the task
\tat io.debezium.Something(Something.java:1)
Caused by: org.postgresql.util.PSQLException: FATAL: password authentication failed for user "hub"
\tat org.postgresql.Other(Other.java:2)
"""


def asked(answer: Callable[[httpx.Request], httpx.Response]) -> Connect:
    return Connect("http://connect:8083/", httpx.MockTransport(answer))


def status(connector: str, *tasks: dict[str, object]) -> httpx.Response:
    return httpx.Response(200, json={"connector": {"state": connector, "worker_id": "w:1"}, "tasks": list(tasks)})


def test_how_a_connector_stands() -> None:
    """Its state, its task's, and of a stack trace the innermost cause alone."""
    failed = {"id": 0, "state": "FAILED", "worker_id": "w:2", "trace": TRACE}
    state = asked(lambda _: status("RUNNING", failed)).state("hub-hub")

    assert (state.state, state.task, state.worker, state.runs) == ("RUNNING", "FAILED", "w:2", False)
    assert state.problem == 'FATAL: password authentication failed for user "hub"'
    assert asked(lambda _: status("RUNNING", {"state": "RUNNING"})).state("x").runs
    assert asked(lambda _: httpx.Response(404, json={"message": "No status found"})).state("x") == MISSING


def test_while_the_workers_share_out_the_work_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "PAUSE_SECONDS", 0.0)
    answers = iter([httpx.Response(409, json={"message": "rebalance"}), httpx.Response(200, json={})])
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return next(answers)

    asked(answer).put("hub-hub", {"tasks.max": "1"})

    assert [(r.method, r.url.path) for r in seen] == [("PUT", "/connectors/hub-hub/config")] * 2
    assert json.loads(seen[-1].content) == {"tasks.max": "1"}


def test_a_refusal_is_said_in_one_line() -> None:
    message = "Connector configuration is invalid and contains the following 1 error(s):\nA value is required\n"
    with pytest.raises(OutsideError, match=r"400 Connector configuration is invalid .* A value is required"):
        asked(lambda _: httpx.Response(400, json={"message": message})).put("x", {})


def test_one_that_does_not_answer_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    with pytest.raises(OutsideError, match=r"Kafka Connect at http://connect:8083 does not answer: Connection refused"):
        asked(refuse).state("x")


def test_a_connector_that_fails_is_not_waited_for() -> None:
    failed = {"id": 0, "state": "FAILED", "worker_id": "w:2", "trace": TRACE}
    with pytest.raises(FaultError, match="The connector hub-hub has failed: FATAL: password authentication failed"):
        asked(lambda _: status("RUNNING", failed)).wait("hub-hub", lambda state: state.runs, "run")


def test_one_that_never_runs_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "RUN_SECONDS", 0.0)
    with pytest.raises(OutsideError, match="did not run within 0 s: it is UNASSIGNED, its task missing"):
        asked(lambda _: status("UNASSIGNED")).wait("hub-hub", lambda state: state.runs, "run")


def test_one_that_shall_not_run_yet_is_made_stopped_or_is_stopped_first() -> None:
    """A connector that is there may hold the slot: it lets go before it gets other settings."""
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        if request.method == "GET" and request.url.path.endswith("/config"):
            return httpx.Response(200, json={}) if is_there else httpx.Response(404, json={"message": "none"})
        if request.method == "POST":
            assert json.loads(request.content) == {"name": "x", "config": {"a": "1"}, "initial_state": "STOPPED"}
        return status("STOPPED") if request.method == "GET" else httpx.Response(202)

    is_there = False
    asked(answer).put_stopped("x", {"a": "1"})
    made = [one for one in seen if one[0] != "GET"]
    is_there = True
    seen.clear()
    asked(answer).put_stopped("x", {"a": "1"})

    assert made == [("POST", "/connectors")]
    assert [one for one in seen if one[0] != "GET"] == [
        ("PUT", "/connectors/x/stop"),
        ("PUT", "/connectors/x/config"),
    ]


def test_one_that_was_just_made_has_not_failed() -> None:
    """Connect knows its settings before its status."""
    asked(lambda _: httpx.Response(404, json={"message": "Status for connector x not found"})).restart("x")


def test_whether_it_has_stored_how_far_it_has_read() -> None:
    assert not asked(lambda _: httpx.Response(200, json={"offsets": []})).has_offsets("x")
    assert asked(lambda _: httpx.Response(200, json={"offsets": [{"offset": {"lsn": 1}}]})).has_offsets("x")


def test_the_settings_hold_no_secret_and_send_all_to_one_topic() -> None:
    """What Kafka Connect is given, everyone who asks it can read."""
    stream = StreamSettings("postgresql://hub:s3cret@db:5432/shop", "hub", {}, Catalogue({}))
    settings = connect_settings(stream, "hub.main", "${env:HUB_MAIN_PASSWORD}")

    assert settings["database.password"] == "${env:HUB_MAIN_PASSWORD}"
    assert "s3cret" not in json.dumps(settings)
    assert (settings["transforms.route.regex"], settings["transforms.route.replacement"]) == (".*", "hub.main")
    # A NULL would become the column's default, and a topic has no offset that closes a transaction.
    assert settings["value.converter.replace.null.with.default"] == "false"
    assert settings["provide.transaction.metadata"] == "true"
    assert settings["custom.metric.tags"] == "topic=hub.main"  # of each connector another, or they wait for each other
    with pytest.raises(InputError, match="sslpassword"):
        connect_settings(
            StreamSettings("postgresql://hub@db/shop?sslpassword=s3cret", "hub", {}, Catalogue({})), "t", "${env:X}"
        )


class Acted:
    """A connector as Kafka Connect tells of it, a clock, and when it was started again."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answer = status("RUNNING", {"state": "RUNNING"})
        self.looks = 0
        self.restarts: list[float] = []  # when
        self.keeper = Keeper(asked(self._answered), "hub-hub", lambda: self.now)

    def _answered(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.restarts.append(self.now)
            return httpx.Response(204)
        self.looks += 1
        return self.answer

    def after(self, seconds: float, *, arrived: bool = False) -> str:
        """What is wrong then, looked at each second."""
        for _ in range(int(seconds)):
            self.now += 1
            self.keeper.look(arrived)
        return str(self.keeper.trouble or "")


def test_a_connector_is_looked_at_while_nothing_arrives() -> None:
    acted = Acted()
    assert acted.after(60, arrived=True) == ""
    assert acted.looks == 0
    assert acted.after(30) == ""
    assert acted.looks == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status("PAUSED", {"state": "PAUSED"}), "is paused. `hub source status --resume`"),
        (status("STOPPED"), "is stopped. `hub source status --resume`"),
        (status("RUNNING", {"state": "UNASSIGNED"}), "task of the connector hub-hub is unassigned."),
        (status("RUNNING"), "task of the connector hub-hub is missing."),
        (httpx.Response(404), "has no connector hub-hub. `hub source register`"),
        (httpx.Response(500, json={"message": "out of memory"}), "500 out of memory."),
    ],
)
def test_what_keeps_a_connector_from_sending_is_said_until_it_is_over(answer: httpx.Response, said: str) -> None:
    acted = Acted()
    acted.answer = answer
    assert said in acted.after(1)
    assert acted.restarts == []
    acted.answer = status("RUNNING", {"state": "RUNNING"})
    assert acted.after(2) == ""


def test_a_failed_connector_is_started_again_after_pauses_that_grow() -> None:
    """At once, after 10 s, 20 s … and 5 minutes at most; once something has arrived, at once again."""
    acted = Acted()
    acted.answer = status("RUNNING", {"state": "FAILED", "trace": TRACE})
    assert 'has failed: FATAL: password authentication failed for user "hub".' in acted.after(1)
    acted.after(1200)
    assert [after - before for before, after in pairwise(acted.restarts)] == [10, 20, 40, 80, 160, 300, 300]

    assert acted.after(1, arrived=True) == ""
    acted.after(11)
    assert acted.restarts[-1] == acted.now - 1
