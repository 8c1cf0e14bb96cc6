"""`hub connector`: from nothing to a connector that passes the kit, as its author does it."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from ipaddress import ip_network
from pathlib import Path

import pytest

from connectors.http import HttpConnector, HttpSettings
from hub.commands.connector import untried_checks
from hub.delivery import Message, Outcome, OutcomeKind
from hub.kit.running import Verdict
from hub.project import Limits, Network

# By form: what is made wrong in it, and how.
FAULT = {
    ".yaml": ("status: 429, outcome: throttle", "status: 418, outcome: throttle"),
    ".py": ("Outcome(OutcomeKind.HELD, ", "Outcome(OutcomeKind.REFUSED, "),
}


def hub(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hub", "--project", str(directory), "connector", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("form", [(), ("--python",)], ids=["yaml", "python"])
def test_a_new_connector_passes_at_once(tmp_path: Path, form: tuple[str, ...]) -> None:
    """And is listed as the project's; with a fault in it the kit says so and exits with 1."""

    made = hub(tmp_path, "new", "my-crm", *form)
    assert (made.returncode, made.stderr) == (0, "")
    file = tmp_path / made.stdout.splitlines()[0]

    tried = hub(tmp_path, "test", "my-crm")
    assert (tried.returncode, tried.stdout.splitlines()[-1].endswith(" passed, 0 failed")) == (0, True), tried.stdout
    listed = [json.loads(line) for line in hub(tmp_path, "list", "--json").stdout.splitlines()]
    assert {one["connector"]: one["from"] for one in listed}["my-crm"] == "project"

    file.write_text(file.read_text().replace(*FAULT[file.suffix]))
    broken = hub(tmp_path, "test", "my-crm")
    assert (broken.returncode, broken.stdout.splitlines()[-1].endswith(", 0 failed")) == (1, False)
    words = [line.split(": ")[1].split(",")[0] for line in broken.stdout.splitlines()[:-2]]
    assert "failed" in words and words == sorted(words, reverse=True), "first what was not tried, then what failed"

    again = hub(tmp_path, "new", "my-crm", *form)
    said = f"hub: There is a connector 'my-crm' already, {made.stdout.splitlines()[0]}. Take another name.\n"
    assert (again.returncode, again.stderr) == (2, said)


PROJECT = {
    "hub.yaml": "hub: shop\nsources: {main: {url: 'postgresql://hub@127.0.0.1:1/nowhere'}}\n",
    "entities/contact.yaml": "entity: contact\ntable: contacts\n",
    "subscriptions/crm.yaml": "subscription: crm\nentity: contact\nto: crm\nbody: {email: '{{ doc.email }}'}\n",
}


def test_the_connector_on_the_page_passes(tmp_path: Path) -> None:
    """Word by word: the kit, its own cases and tests, and the destination that goes with it."""
    page = (Path(__file__).parents[2] / "docs/connectors/writing.md").read_text("utf-8")
    shown = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert list(shown) == ["connectors/birch.py", "destinations/crm.yaml", "tests/test_birch.py"]
    for file, text in (PROJECT | shown).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)

    tried = hub(tmp_path, "test", "birch")
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert int(tried.stdout.splitlines()[-1].removesuffix(" passed, 0 failed")) >= 35

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 passed" in tested.stdout, tested.stdout

    command = [sys.executable, "-m", "hub", "--project", str(tmp_path), "check", "--offline"]
    checked = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "BIRCH_TOKEN": "t"}
    )
    assert checked.stdout.splitlines()[-1] == "No problems, no notes.", checked.stdout


def test_one_thing_is_begun_at_a_time(tmp_path: Path) -> None:
    refused = hub(tmp_path, "new", "my-crm", "--service", "--python")

    assert (refused.returncode, "Give one of them." in refused.stderr) == (2, True)
    assert not any(tmp_path.iterdir())


def test_a_connector_that_cannot_be_tried_has_not_passed(tmp_path: Path) -> None:
    """It says what to write."""
    (tmp_path / "connectors").mkdir()
    text = "connector: fax\nabout: Faxes\nupsert: {request: POST https://fax.example}\n"
    (tmp_path / "connectors/fax.yaml").write_text(text)

    tried = hub(tmp_path, "test", "fax")

    assert (tried.returncode, "fax: says nothing of how to try it. Write `test:`" in tried.stdout) == (1, True)


def test_what_is_not_tried_is_named() -> None:
    verdicts = [
        Verdict("one"),
        Verdict("two", not_tried="it is not here"),
        Verdict("three", "update", not_tried="it is not here"),
        Verdict("three", "create", not_tried="it is not here"),
    ]

    assert list(untried_checks(verdicts)) == [("it is not here", ["two", "three (update, create)"])]


def test_a_new_service_passes_its_tests(tmp_path: Path) -> None:
    """Which are its owner's from then on."""

    made = hub(tmp_path, "new", "scoring", "--service")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "destinations/scoring.yaml").exists()

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "services/test_scoring.py"]
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "5 passed" in tested.stdout, tested.stdout


def test_a_new_service_takes_what_the_hub_sends(tmp_path: Path) -> None:
    """By the destination that was written with it; a CloudEvent, signed, twice."""

    assert hub(tmp_path, "new", "scoring", "--service").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = subprocess.Popen(
        [sys.executable, "services/scoring.py", f"--port={port}"],
        cwd=tmp_path,
        env={**os.environ, "WEBHOOK_SECRET": "whsec_c2VjcmV0"},
    )
    try:
        _wait_for(port)
        outcomes = asyncio.run(_deliver_twice(f"http://127.0.0.1:{port}/deliveries"))
    finally:
        service.terminate()
        service.wait(10)

    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.DELIVERED] * 2
    assert '"reschedule"' in outcomes[0].detail and outcomes[0].detail == outcomes[1].detail


def _wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, "The service does not listen."
            time.sleep(0.1)


async def _deliver_twice(url: str) -> list[Outcome]:
    event = {
        "specversion": "1.0",
        "id": "msg_1",
        "type": "order.created",
        "subject": "42",
        "data": {"document": {"status": "pending"}},
    }
    message = Message(
        "msg_1", "s", "order", "42", 1, "created", json.dumps(event).encode(), "application/cloudevents+json", 1
    )
    limits = Limits(network=Network((ip_network("127.0.0.0/8"),)))
    connector = HttpConnector(HttpSettings(url, secret="whsec_c2VjcmV0"), limits)
    try:
        return [(await connector.deliver([message]))[0] for _ in range(2)]
    finally:
        await connector.close()
