"""`hub demo` as a user runs it: in a directory of one's own, from nothing to the verdict, and nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from examples.postgres import LocalPostgres

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

HUB = Path(sys.executable).with_name("hub")
FIRST_CALL = "Ada signs up"  # everything is up by then
SECRET = "demo-secret"


@contextmanager
def demo(directory: Path, *options: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [HUB, "demo", "--once", *options],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints up to the line with `text`; everything when it ends before."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


def left_behind(directory: Path) -> list[list[str]]:
    """Processes that name the demo's directory, or the one its Postgres had to go to."""
    names = (str(directory), str(LocalPostgres(directory / "var/demo/postgres", "pypi").directory))
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if any(name in part for part in command for name in names)]


@contextmanager
def own_service(directory: Path) -> Iterator[Path]:
    """What `hub connector new scoring --service` writes to `directory`, for orders, running; its log."""
    subprocess.run([HUB, "--project", directory, "connector", "new", "scoring", "--service"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    destination = directory / "destinations/scoring.yaml"
    destination.write_text(destination.read_text().replace("8095", port))
    (directory / "subscriptions").mkdir()
    orders = "{subscription: scoring, entity: order, to: scoring, on: [created, updated, deleted, snapshot]}"
    (directory / "subscriptions/scoring.yaml").write_text(orders)
    log = directory / "scoring.log"
    with log.open("w") as output:
        service = subprocess.Popen(
            [sys.executable, "services/scoring.py", "--port", port],
            cwd=directory, env=os.environ | {"WEBHOOK_SECRET": SECRET}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield log
    finally:
        service.kill()
        service.wait(10)


def test_every_change_arrives_and_is_right(tmp_path: Path) -> None:
    """It ends with exit code 0 by itself, has shown a change, a replay and a verdict, and has ended all it started.

    With a service beside it as `hub connector new` writes it: that gets each order, and what it forwards is there.
    """
    partner = tmp_path / "partner"
    with own_service(partner) as log:
        with demo(tmp_path, "--also", str(partner), WEBHOOK_SECRET=SECRET) as process:
            said = read_until(process, "never printed")
            code = process.wait(60)
        received = log.read_text()

    assert code == 0, said
    assert "Every change is delivered and right." in said
    assert "was known, so it was dropped" in said
    assert "crm created" in said
    assert "mailing deleted" in said
    assert re.search(r"^order.created \d+: {.forward.*scoring_result", received, re.MULTILINE), received
    looking = ". var/demo/env && hub --project var/demo/project documents list scoring_result"
    path = f"{HUB.parent}:{os.environ['PATH']}"
    found = subprocess.run(looking, shell=True, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True)
    assert found.stdout.count(b"scoring_result ") > 10, found
    assert left_behind(tmp_path) == []


def test_a_hub_that_ends_is_a_fault(tmp_path: Path) -> None:
    """Nothing is delivered any more: exit code 1, and one sentence that says what ended and where its log is."""
    with demo(tmp_path) as process:
        said = read_until(process, FIRST_CALL)
        hubs = [child for child in psutil.Process(process.pid).children() if child.cmdline()[-1:] == ["run"]]
        assert len(hubs) == 1, said
        hubs[0].kill()
        said = read_until(process, "never printed")
        code = process.wait(60)

    assert code == 1, said
    assert "The hub ended by itself with exit code -9" in said
    assert "Traceback" not in said
    end = time.monotonic() + 20  # the killed one's children see its end, and end in order
    while left_behind(tmp_path):
        assert time.monotonic() < end, left_behind(tmp_path)
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM in the middle: nothing keeps running, and no traceback."""
    with demo(tmp_path) as process:
        said = read_until(process, FIRST_CALL)
        process.send_signal(number)
        said += read_until(process, "never printed")
        code = process.wait(60)

    assert code not in (0, -9), said
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "services/scoring.py",
            "has nothing in connectors/, destinations/, entities/, subscriptions/. Name a project.",
        ),
        ("destinations/crm.yaml", "The demo has a destinations/crm.yaml too. Give yours another name."),
    ],
)
def test_what_the_demo_cannot_have_beside_it(tmp_path: Path, file: str, said: str) -> None:
    """Bad input, said before anything is started."""
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text("")

    with demo(tmp_path, "--also", str(tmp_path)) as process:
        assert said in read_until(process, "never printed")
        assert process.wait(60) == 2
    assert not (tmp_path / "var").exists()


def test_one_demo_at_a_time(tmp_path: Path) -> None:
    """A second one in the same directory is refused with exit code 3, and leaves the first one alone."""
    with demo(tmp_path) as process:
        said = read_until(process, "Postgres ")
        with demo(tmp_path) as second:
            refusal = read_until(second, "never printed")
            assert second.wait(60) == 3, refusal
        assert process.poll() is None, said

    assert "A demo runs in" in refusal
    assert left_behind(tmp_path) == []
