"""`hub deliveries`, `hub pause` and `hub resume` as an operator calls them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.store import tables
from hub.store.database import Store
from hub.store.migrate import create_if_missing
from tests.integration.dispatching import Bench
from tests.receiver import Receiver

pytestmark = pytest.mark.acceptance

PROJECT = {
    "hub.yaml": "hub: conference\nsources: {main: {url: 'postgresql://nobody@127.0.0.1:9/none', slot: hub}}\n"
    "store: sqlite:///hub.db\n",
    "entities/order.yaml": "entity: order\ntable: public.orders\n",
    "destinations/crm.yaml": "destination: crm\nconnector: file\npath: out.jsonl\n",
    "subscriptions/crm.yaml": "subscription: crm\nentity: order\nto: crm\n",
}


class Hub:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in PROJECT.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
        self.store = Store(f"sqlite:///{directory}/hub.db", durable=False)
        create_if_missing(self.store)
        self.bench = Bench(self.store)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hub", "--project", str(self.directory), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)

    def json(self, *arguments: str) -> list[Any]:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    hub.store.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as receiver:
        yield receiver


def park(hub: Hub, receiver: Receiver, *keys: str) -> None:
    hub.bench.subscribe("crm", {"url": receiver.url})
    receiver.behave(status=422, body="no such field")
    hub.bench.commit(*keys)
    hub.bench.run()
    receiver.behave()


def test_parked_ones_are_listed_shown_and_sent_again(hub: Hub, receiver: Receiver) -> None:
    """With the reason and the attempts; the id is the one that the receiver saw, also when it is sent again."""

    park(hub, receiver, "1", "2")

    listed = hub.json("deliveries", "list", "--state", "parked", "--key", "1")
    assert [(one["key"], one["state"], one["attempts"]) for one in listed] == [("1", "parked", 1)]
    assert listed[0]["reason"] == "Refused: 422 Unprocessable Entity: no such field"
    assert "no such field" in hub("deliveries", "list").stdout
    shown = hub.json("deliveries", "show", listed[0]["id"])[0]
    assert shown == hub.json("deliveries", "show", str(listed[0]["number"]))[0]
    assert [attempt["outcome"] for attempt in shown["tried"]] == ["refused"]
    assert shown["id"] in {entry.headers["webhook-id"] for entry in receiver.log()}

    assert hub.json("deliveries", "retry", "--all-parked") == [{"released": 2, "superseded": 0}]
    hub.bench.run()
    assert hub.json("deliveries", "list") == []
    assert shown["id"] in {entry.headers["webhook-id"] for entry in receiver.log()[2:]}


def test_superseded_ones_need_force(hub: Hub, receiver: Receiver) -> None:
    """And it says so."""

    park(hub, receiver, "1")
    hub.bench.commit("1")
    hub.bench.run()

    number = str(hub.json("deliveries", "list", "--state", "superseded")[0]["number"])
    assert "Send them with --force" in hub("deliveries", "retry", number).stdout
    assert hub.json("deliveries", "retry", number, "--force")[0]["released"] == 1
    hub.bench.run()
    assert [entry.json["hubversion"] for entry in receiver.log()] == [1, 2, 1]


def test_discarding_asks_and_keeps_the_reason(hub: Hub, receiver: Receiver) -> None:
    """Without a terminal it needs --yes; the attempts tell who gave it up and why."""

    park(hub, receiver, "1")

    refused = hub("deliveries", "discard", "--all-parked", "--reason", "merged")
    assert (refused.returncode, refused.stderr) == (2, "hub: 1 would be discarded. Say so with --yes.\n")
    assert hub.json("deliveries", "discard", "--all-parked", "--reason", "merged", "--yes") == [{"discarded": 1}]
    assert hub.json("deliveries", "list") == []
    assert hub.bench.rows(tables.attempt)[-1].detail == "Discarded by an operator: merged"


def test_what_is_chosen_must_be_said(hub: Hub) -> None:
    """Nothing is released by accident; unknown names get the nearest one; errors are sentences with exit code 2."""

    for arguments, what in (
        (("deliveries", "retry"), "Nothing is chosen."),
        (("deliveries", "retry", "--subscription", "cmr"), "Did you mean crm?"),
        (("deliveries", "show", "99"), "No unsettled delivery is '99'."),
        (("pause", "cmr"), "Did you mean crm?"),
    ):
        done = hub(*arguments)
        assert (done.returncode, what in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_pause_and_resume(hub: Hub, receiver: Receiver) -> None:
    """A paused subscription's queue waits; resume says what it was, and lifts a receiver's 410 too."""

    hub.bench.subscribe("crm", {"url": receiver.url})
    assert hub("pause", "crm", "--reason", "moving").stdout == "crm is paused.\n"
    hub.bench.commit("1")
    hub.bench.run()
    assert receiver.log() == []
    assert hub("resume", "crm").stdout == "crm goes on; it was paused.\n"
    receiver.behave(status=410)
    hub.bench.run()
    assert hub("resume", "crm").stdout == "crm goes on; it was disabled.\n"
    receiver.behave()
    hub.bench.run()
    assert [entry.status for entry in receiver.log()] == [410, 200]
