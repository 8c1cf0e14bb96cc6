"""Kafka Connect's REST interface, as far as a stream's connector needs it."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from hub.errors import FaultError, OutsideError

log = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0  # of one request: Connect answers 409 while its workers rebalance, which takes seconds
RUN_SECONDS = 120.0  # until a connector and its task run, or stop
PAUSE_SECONDS = 0.5  # between two looks
LOOK_SECONDS = 10.0  # between two looks at a connector from which nothing arrives
LOOK_AGAIN_SECONDS = 2.0  # while it does not run
LOOK_PATIENCE = 3.0  # seconds that a look may take: what arrives meanwhile waits for it
FIRST_RESTART, LONGEST_RESTART = 10.0, 300.0  # seconds between two starts of a connector that fails, doubled each time


class ConnectorState(msgspec.Struct, frozen=True):
    """How a connector stands."""

    state: str  # RUNNING, PAUSED, STOPPED, FAILED, UNASSIGNED, RESTARTING; "missing" when Connect does not have it
    task: str  # of its one task, "" when it has none
    worker: str  # where the task runs
    problem: str  # the first line of why it failed, "" when it did not

    @property
    def runs(self) -> bool:
        return self.state == "RUNNING" and self.task == "RUNNING"

    @property
    def failed(self) -> bool:
        return "FAILED" in (self.state, self.task)

    @property
    def stopped(self) -> bool:
        return self.state == "STOPPED" and not self.task


MISSING = ConnectorState("missing", "", "", "")


class Connect:
    """One Connect cluster. Every method raises OutsideError when it does not answer, or refuses."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._client = httpx.Client(base_url=url.rstrip("/"), transport=transport, trust_env=False)
        self._place = str(httpx.URL(url).copy_with(userinfo=b"")).rstrip(
            "/"
        )  # what may be said: it may hold a password

    def put(self, name: str, settings: Mapping[str, str]) -> None:
        """Make the connector, or give it these settings."""
        self._ask("PUT", f"/connectors/{name}/config", json=dict(settings))

    def put_stopped(self, name: str, settings: Mapping[str, str]) -> None:
        """As `put`, but it does not run before it is resumed."""
        if self.settings(name) is None:
            self._ask("POST", "/connectors", json={"name": name, "config": dict(settings), "initial_state": "STOPPED"})
        else:
            self.stop(name)
            self.put(name, settings)
        self.wait(name, lambda state: state.stopped, "stop")

    def settings(self, name: str) -> dict[str, str] | None:
        answer = self._ask("GET", f"/connectors/{name}/config", missing=True)
        return None if answer is None else {key: str(value) for key, value in answer.items()}

    def state(self, name: str, patience: float = ANSWER_SECONDS) -> ConnectorState:
        answer = self._ask("GET", f"/connectors/{name}/status", missing=True, patience=patience)
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

    def start(self, name: str) -> None:
        """From paused, stopped or failed."""
        self.resume(name)
        self.restart(name)

    def stop(self, name: str) -> None:
        """Its task is shut down, which frees the slot; its settings and offsets stay."""
        self._ask("PUT", f"/connectors/{name}/stop")
        self.wait(name, lambda state: state.stopped, "stop")

    def restart(self, name: str, patience: float = ANSWER_SECONDS) -> None:
        """Connector and task, where they have failed; one that was just made has no state yet, which is well."""
        path = f"/connectors/{name}/restart?includeTasks=true&onlyFailed=true"
        self._ask("POST", path, missing=True, patience=patience)

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"/connectors/{name}")

    def forget_offsets(self, name: str) -> None:
        """Of a stopped connector: with its next start it begins anew, with a snapshot."""
        self._ask("DELETE", f"/connectors/{name}/offsets")

    def has_offsets(self, name: str) -> bool:
        """It has stored how far it has read."""
        return bool(self._ask("GET", f"/connectors/{name}/offsets")["offsets"])

    def wait(self, name: str, enough: Callable[[ConnectorState], bool], what: str) -> ConnectorState:
        """Until `enough`. FaultError when the connector fails, OutsideError after RUN_SECONDS."""
        end = time.monotonic() + RUN_SECONDS
        while True:
            state = self.state(name)
            if enough(state):
                return state
            if state.problem and state.failed:
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

    def _ask(
        self, method: str, path: str, *, missing: bool = False, patience: float = ANSWER_SECONDS, **more: Any
    ) -> Any:
        """The answer's JSON; None for no content, and for 404 where that may be (`missing`)."""
        end = time.monotonic() + patience
        while True:
            try:
                answer = self._client.request(method, path, timeout=patience, **more)
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


class Keeper:
    """Looks after one connector while nothing arrives from it, and starts it again after it has failed."""

    def __init__(self, connect: Connect, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.trouble: OutsideError | None = None  # why nothing can arrive, as of the last look
        self._connect = connect
        self._name = name
        self._clock = clock
        self._look_at = 0.0
        self._restarts = 0  # since something arrived
        self._restart_at = 0.0

    def look(self, arrived: bool) -> None:
        """To be called often; most calls do nothing."""
        now = self._clock()
        if arrived:
            self.trouble, self._restarts, self._restart_at = None, 0, 0.0
            self._look_at = now + LOOK_SECONDS
        elif now >= self._look_at:
            self.trouble = self._found(now)
            self._look_at = now + (LOOK_AGAIN_SECONDS if self.trouble else LOOK_SECONDS)

    def _found(self, now: float) -> OutsideError | None:
        try:
            state = self._connect.state(self._name, LOOK_PATIENCE)
            if state.failed and now >= self._restart_at:
                self._restart(state, now)
        except OutsideError as error:  # what is in the topic can be read without it
            return error
        return standstill(self._name, state)

    def _restart(self, state: ConnectorState, now: float) -> None:
        self._connect.restart(self._name, LOOK_PATIENCE)
        pause = min(LONGEST_RESTART, FIRST_RESTART * 2.0**self._restarts)
        self._restarts, self._restart_at = self._restarts + 1, now + pause
        told = {"connector": self._name, "reason": state.problem, "again_in": f"{pause:g}s"}
        log.warning("connector has failed and is started again", extra=told)


def standstill(name: str, state: ConnectorState) -> OutsideError | None:
    """Why nothing comes from a connector, and the remedy; None when it runs."""
    if state.failed:
        return OutsideError(
            f"The connector {name} has failed: {state.problem.rstrip('.')}.",
            "It is started again by itself, after pauses that grow; mend what it names.",
        )
    if state == MISSING:
        return OutsideError(f"Kafka Connect has no connector {name}.", "`hub source register` makes it.")
    if state.state in ("PAUSED", "STOPPED"):
        what = f"The connector {name} is {state.state.lower()}."
        return OutsideError(what, "`hub source status --resume` has it go on.")
    if not state.runs:
        what = f"The task of the connector {name} is {state.task.lower() or 'missing'}."
        return OutsideError(what, "Kafka Connect starts it by itself; if it does not, see its log.")
    return None


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
