"""Kafka Connect's REST interface, by a transport that answers as Connect does."""

import json
from collections.abc import Callable

import httpx
import pytest

from cdc import connect
from cdc.connect import MISSING, Connect
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


def test_the_connectors_of_a_source_have_names_of_their_own() -> None:
    """Debezium registers its metrics by it, and tries again for a minute where the name is taken."""
    stream = StreamSettings("postgresql://hub@db/shop", "hub", {}, Catalogue({}))
    names = [connect_settings(stream, topic, "${env:X}")["topic.prefix"] for topic in ("hub.main", "hub.main.sales")]

    assert names == ["hub.main", "hub.main.sales"]


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
    with pytest.raises(InputError, match="sslpassword"):
        connect_settings(
            StreamSettings("postgresql://hub@db/shop?sslpassword=s3cret", "hub", {}, Catalogue({})), "t", "${env:X}"
        )
