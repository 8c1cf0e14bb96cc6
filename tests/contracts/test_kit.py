"""The conformance kit finds what it looks for: connectors that break their word fail, each in its own check."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import connectors
from connectors.declarative import read_definition
from hub.connector import ConnectorKind, Reply, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.kit import checks
from hub.kit.checks import Bench, Check
from hub.kit.running import run_kit
from hub.project import Limits


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


class Short(Careless):
    """It gives one outcome, whatever it got."""

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return (await super().deliver(messages))[:1]


def faults(connector: Callable[[Settings, Limits], Any]) -> set[str]:
    settings = {"url": "{server}", "token": "kit-secret"}
    trial = Trial(settings, {"key": "{key}"}, lambda messages, before: Reply(200, body=b"[]"))
    verdicts = asyncio.run(run_kit("bad", ConnectorKind(Settings, connector, trial=trial)))
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
        "an answer that is no HTTP",
        "a redirect, to the address of cloud metadata or elsewhere",
        "what it was told is shown without secrets",
        "an address where nobody listens",
    } <= found
    assert not {"a batch is delivered, an outcome for each", "2xx without a body"} & found


@pytest.mark.parametrize("connector", [Forgetful, Short])
def test_a_batch_is_counted(connector: Callable[[Settings, Limits], Any]) -> None:
    """What was not sent, and what has no outcome."""

    assert "a batch is delivered, an outcome for each" in faults(connector)


@pytest.mark.parametrize(
    ("name", "old", "new", "check"),
    [
        ("mailchimp", "| lower | urlencode", "| lower", checks.lets_nothing_in),
        ("hubspot", "same:", "#", checks.sends_no_key_twice),
        ("hubspot", "outcomes:\n  - {status: 429", "outcomes:\n  - {status: 2xx, outcome: delivered}\n  - {status: 429",
         checks.sees_that_nothing_was_written),
        ("brevo", "{status: 402, outcome: held}", "{status: 403, outcome: refused}", checks.blames_the_destination),
    ],
)  # fmt: skip
def test_a_definition_with_a_fault_fails(name: str, old: str, new: str, check: Check) -> None:
    """In the check that is about it."""

    text = (Path(connectors.__path__[0]) / f"{name}.yaml").read_text("utf-8")
    assert old in text
    kind = read_definition(f"connectors/{name}.yaml", text.replace(old, new).encode())
    assert kind.trial
    bench = Bench(name, kind, kind.trial, Path())

    with pytest.raises(AssertionError):
        asyncio.run(check(bench))
