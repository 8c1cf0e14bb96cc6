"""Kafka Connect's REST interface, as far as a stream's connector needs it."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from hub.errors import FaultError, OutsideError

ANSWER_SECONDS = 30.0  # of one request: Connect answers 409 while its workers rebalance, which takes seconds
RUN_SECONDS = 120.0  # until a connector and its task run, or stop
PAUSE_SECONDS = 0.5  # between two looks


class ConnectorState(msgspec.Struct, frozen=True):
    """How a connector stands."""

    state: str  # RUNNING, PAUSED, STOPPED, FAILED, UNASSIGNED, RESTARTING; "missing" when Connect does not have it
    task: str  # of its one task, "" when it has none
    worker: str  # where the task runs
    problem: str  # the first line of why it failed, "" when it did not

    @property
    def runs(self) -> bool:
        return self.state == "RUNNING" and self.task == "RUNNING"


MISSING = ConnectorState("missing", "", "", "")


class Connect:
    """One Connect cluster. Every method raises OutsideError when it does not answer, or refuses."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/"), timeout=ANSWER_SECONDS, transport=transport, trust_env=False
        )
        self._place = str(httpx.URL(url).copy_with(userinfo=b"")).rstrip(
            "/"
        )  # what may be said: it may hold a password

    def put(self, name: str, settings: Mapping[str, str]) -> None:
        """Make the connector, or give it these settings."""
        self._ask("PUT", f"/connectors/{name}/config", json=dict(settings))

    def settings(self, name: str) -> dict[str, str] | None:
        answer = self._ask("GET", f"/connectors/{name}/config", missing=True)
        return None if answer is None else {key: str(value) for key, value in answer.items()}

    def state(self, name: str) -> ConnectorState:
        answer = self._ask("GET", f"/connectors/{name}/status", missing=True)
        if answer is None:
            return MISSING
        connector, tasks = answer["connector"], answer.get("tasks") or [{}]
        trace = tasks[0].get("trace") or connector.get("trace") or ""
        return ConnectorState(
            connector["state"], tasks[0].get("state", ""), tasks[0].get("worker_id", ""), _cause(trace)
        )

    def pause(self, name: str) -> None:
        self._ask("PUT", f"/connectors/{name}/pause")

    def resume(self, name: str) -> None:
        """From paused or stopped."""
        self._ask("PUT", f"/connectors/{name}/resume")

    def stop(self, name: str) -> None:
        """Its task is shut down, which frees the slot; its settings and offsets stay."""
        self._ask("PUT", f"/connectors/{name}/stop")
        self.wait(name, lambda state: state.state == "STOPPED" and not state.task, "stop")

    def restart(self, name: str) -> None:
        """Connector and task, where they have failed. One that has just been made has no status yet, and starts."""
        self._ask("POST", f"/connectors/{name}/restart?includeTasks=true&onlyFailed=true", missing=True)

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"/connectors/{name}")

    def forget_offsets(self, name: str) -> None:
        """Of a stopped connector: with its next start it begins anew, with a snapshot."""
        self._ask("DELETE", f"/connectors/{name}/offsets")

    def wait(self, name: str, enough: Callable[[ConnectorState], bool], what: str) -> ConnectorState:
        """Until `enough`. FaultError when the connector fails, OutsideError after RUN_SECONDS."""
        end = time.monotonic() + RUN_SECONDS
        while True:
            state = self.state(name)
            if enough(state):
                return state
            if state.problem and "FAILED" in (state.state, state.task):
                raise FaultError(
                    f"The connector {name} has failed: {state.problem}",
                    "Mend that, then `hub source status --restart` starts it again.",
                )
            if time.monotonic() > end:
                raise OutsideError(
                    f"The connector {name} did not {what} within {RUN_SECONDS:.0f} s: it is {state.state}, its task "
                    f"{state.task or 'missing'}.",
                    "See the log of Kafka Connect.",
                )
            time.sleep(PAUSE_SECONDS)

    def _ask(self, method: str, path: str, *, missing: bool = False, **more: Any) -> Any:
        """The answer's JSON; None for no content, and for 404 where that may be (`missing`)."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                answer = self._client.request(method, path, **more)
            except httpx.HTTPError as error:
                raise OutsideError(
                    f"Kafka Connect at {self._place} does not answer: {error}.", "Check `connect:`, and that it runs."
                ) from error
            if answer.status_code == 409 and time.monotonic() < end:  # its workers share out the work just now
                time.sleep(PAUSE_SECONDS)
                continue
            if answer.status_code == 404 and missing:
                return None
            if answer.is_success:
                return _json(answer, self._place) if answer.content else None
            raise OutsideError(
                f"Kafka Connect at {self._place} refuses {method} {path}: {answer.status_code} {_said(answer)}.",
                "See the log of Kafka Connect.",
            )

    def close(self) -> None:
        self._client.close()


def _json(answer: httpx.Response, place: str) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise OutsideError(f"What answers at {place} is not Kafka Connect.", "Check `connect:`.") from error


def _said(answer: httpx.Response) -> str:
    """Its message; one line, because a refused configuration is listed over many."""
    try:
        message = str(answer.json().get("message", ""))
    except ValueError:
        message = answer.text[:200]
    return " ".join(message.split()).rstrip(".")


def _cause(trace: str) -> str:
    """Of a Java stack trace the innermost cause, without its class."""
    lines = [line for line in trace.splitlines() if line and not line.startswith(("\t", " "))]
    if not lines:
        return ""
    innermost = next((line for line in reversed(lines) if line.startswith("Caused by: ")), lines[0])
    return innermost.removeprefix("Caused by: ").split(": ", 1)[-1].strip()
