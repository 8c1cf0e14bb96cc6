"""The conformance kit finds what it looks for: connectors that break their word fail, each in its own check."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import connectors
from connectors.declarative import read_definition
from hub.connector import ConnectorKind, NotTried, Reply, System, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.kit import answers, checks, requests
from hub.kit.bench import Bench, Check, stages
from hub.kit.running import run_kit
from hub.project import Limits

TRIAL = Trial({"url": "{server}", "token": "kit-secret"}, {"key": "{key}"}, lambda messages, before: Reply(body=b"[]"))


class Settings(msgspec.Struct, frozen=True):
    url: str
    token: str = "kit-secret"


class Careless:
    """As it is written in a hurry: it posts, and takes every answer for a yes."""

    batch = 5

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(follow_redirects=True, timeout=limits.timeout)

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        bodies = [msgspec.Raw(message.content) for message in messages]
        answer = await self._client.post(
            self._settings.url, content=msgspec.json.encode(bodies), headers={"x-token": self._settings.token}
        )
        return [Outcome(OutcomeKind.DELIVERED, answer.text[:600])] * len(messages)

    async def close(self) -> None:
        await self._client.aclose()


class Forgetful(Careless):
    """It sends the first of a batch alone, and says that all were."""

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        await super().deliver(messages[:1])
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)


class Idle(Careless):
    """It says that all is delivered, and sends nothing."""

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)


class Short(Careless):
    """It gives one outcome, whatever it got."""

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return (await super().deliver(messages))[:1]


def bench_of(kind: ConnectorKind[Any]) -> Bench:
    assert kind.trial
    return Bench("tried", kind, kind.trial, Path())


def faults(connector: Callable[[Settings, Limits], Any]) -> set[str]:
    verdicts = asyncio.run(run_kit("bad", ConnectorKind(Settings, connector, trial=TRIAL)))
    return {verdict.check for verdict in verdicts if verdict.fault}


def test_a_careless_connector_fails() -> None:
    """In nearly every check; it does deliver when all is well, and survives a server that says 204."""

    found = faults(Careless)

    assert {
        "documents of one key don't share a request",
        "409 for all",
        "429 with seconds",
        "429 with a date",
        "503 with Retry-After",
        "401 in mid-run: held, or renewed once and sent again",
        "an answer without end",
        "an answer in no language that it speaks",
        "a redirect, to the address of cloud metadata or elsewhere",
        "what it was told is shown without secrets",
        "an address where nobody listens",
    } <= found
    assert not {"a batch is delivered, an outcome for each", "2xx without a body"} & found


@pytest.mark.parametrize("check", [checks.deletes, checks.sends_no_key_twice])
def test_a_connector_that_sends_nothing_fails(check: Check) -> None:
    with pytest.raises(AssertionError, match=r"and (has sent nothing|no request has come)"):
        asyncio.run(check(bench_of(ConnectorKind(Settings, Idle, trial=TRIAL))))


class Blocking(Careless):
    """It waits for its server on the event loop."""

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        host, port = self._settings.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=3) as made:
            made.recv(1)
        return [Outcome(OutcomeKind.HELD)] * len(messages)


def test_a_connector_that_blocks_fails() -> None:
    """All other destinations would wait with it."""
    bench = bench_of(ConnectorKind(Settings, Blocking, trial=Trial({"url": "{server}"})))

    with pytest.raises(AssertionError, match="blocked the event loop"):
        asyncio.run(checks.waits_without_blocking(bench))


class LineSettings(msgspec.Struct, frozen=True):
    path: str


class Line:
    """It says that it has written, and has not."""

    batch = 5

    def __init__(self, settings: LineSettings, limits: Limits) -> None:
        pass

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)

    async def close(self) -> None:
        pass


def test_what_is_delivered_has_to_be_there() -> None:
    """Where the connector's system can be asked; and what is not for it is named with the reason."""

    @asynccontextmanager
    async def nothing(directory: Path) -> AsyncIterator[System]:
        yield System({"path": str(directory)}, lambda key: False)

    trial = Trial({}, {"key": "{key}"}, system=nothing)
    verdicts = {one.check: one for one in asyncio.run(run_kit("line", ConnectorKind(LineSettings, Line, trial=trial)))}

    delivers = "a batch is delivered, an outcome for each"
    assert verdicts[delivers].fault == "kitdoc0001 is delivered, it says, and has not come."
    assert verdicts["a small answer that unpacks to 50 MB"].not_tried == "it speaks no HTTP"
    assert verdicts["an address where nobody listens"].not_tried == "it reaches nothing over the network"


def test_a_system_that_is_not_here_is_said() -> None:
    """It is neither passed nor failed."""

    def missing(directory: Path) -> Any:
        raise NotTried("there is none here")

    trial = Trial({"path": "x"}, {"key": "{key}"}, system=missing)
    verdicts = asyncio.run(run_kit("line", ConnectorKind(LineSettings, Line, trial=trial)))

    assert {one.not_tried for one in verdicts[:4]} == {"there is none here"}
    assert not any(one.fault for one in verdicts)


@pytest.mark.parametrize(
    ("connector", "fault"),
    [(Forgetful, "kitdoc0002 is delivered, it says, and has not come."), (Short, "It gave 1 outcomes for 5 messages.")],
)
def test_a_batch_is_counted(connector: Callable[[Settings, Limits], Any], fault: str) -> None:
    """What was not sent, and what has no outcome."""
    with pytest.raises(AssertionError, match=fault):
        asyncio.run(checks.delivers(bench_of(ConnectorKind(Settings, connector, trial=TRIAL))))


@pytest.mark.parametrize(
    ("name", "old", "new", "check"),
    [
        ("mailchimp", "| lower) | urlencode", "| lower)", requests.lets_nothing_in),
        ("mailchimp", "members/{{ (known or", "members/{{ ('' or", requests.goes_by_what_is_remembered),
        ("mautic", "found | urlencode", "found", requests.quotes_what_is_remembered),
        ("hubspot", "same:", "#", checks.sends_no_key_twice),
        ("hubspot", "outcomes:\n  - {status: 429", "outcomes:\n  - {status: 2xx, outcome: delivered}\n  - {status: 429",
         requests.sees_that_nothing_was_written),
        ("brevo", "{status: 402, outcome: held}", "{status: 403, outcome: refused}", answers.blames_the_destination),
    ],
)  # fmt: skip
def test_a_definition_with_a_fault_fails(name: str, old: str, new: str, check: Check) -> None:
    """In the check that is about it."""

    text = (Path(connectors.__path__[0]) / f"{name}.yaml").read_text("utf-8")
    assert old in text
    bench = bench_of(read_definition(f"connectors/{name}.yaml", text.replace(old, new).encode()))
    about = [one for one in stages(bench.trial) if check in requests.checks_of(one, bench.trial)] or [bench.stage]

    with pytest.raises(AssertionError):
        for stage in about:
            asyncio.run(check(bench.at(stage)))
