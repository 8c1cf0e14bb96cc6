"""The hub as its users have it: a project directory and the `hub` command as a subprocess."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from tests.oracle import journal, mode

HUB = Path(sys.executable).with_name("hub")
LOOK = 0.05  # seconds between two looks at the store; it rings for the hub's own roles only


@dataclass(frozen=True)
class Project:
    directory: Path
    store: str  # an SQLAlchemy URL

    def write(self, files: Mapping[str, str]) -> None:
        """Files of the project by their path in it."""
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")

    def hub(self, *arguments: str, ends_with: int = 0, timeout: float = 120) -> str:
        """What a command prints; AssertionError with all of its output when it ends in another way."""
        done = subprocess.run(
            [HUB, "--project", self.directory, *arguments],
            capture_output=True, text=True, timeout=timeout, check=False, env=_environment(),
        )  # fmt: skip
        said = f"hub {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == ends_with, said
        return done.stdout

    @contextmanager
    def running(self, *, ended_by: signal.Signals = signal.SIGTERM) -> Iterator["Run"]:
        """`hub run` in the background; on leaving it is asked to end, and must end well."""
        log = self.directory / "run.log"
        with log.open("ab") as output:
            process = psutil.Popen(
                [HUB, "--project", self.directory, "run"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(),
            )  # fmt: skip
        run = Run(self, process, log)
        try:
            yield run
            process.send_signal(ended_by)
            assert process.wait(60) == 0, f"hub run did not end well\n{run.said()}"
        finally:
            _kill(process)


@dataclass(frozen=True)
class Run:
    project: Project
    process: psutil.Popen
    log: Path

    def said(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def role(self, role: str) -> psutil.Process | None:
        """The running process of a role; None while there is none."""
        for child in self.process.children():
            try:
                if ["--role", role] in _pairs(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def until(self, reached: Callable[[], bool], what: str, timeout: float = 90) -> None:
        """Wait for something that the hub shall do; AssertionError with its log when it does not."""
        end = time.monotonic() + timeout
        while not reached():
            assert self.process.poll() is None, f"hub run ended while waiting until {what}\n{self.said()}"
            assert time.monotonic() < end, f"{timeout} s passed, and not yet: {what}\n{self.said()}"
            time.sleep(LOOK)

    def until_settled(self, lsn: int, timeout: float = 90) -> None:
        """Wait until the store has every commit up to `lsn`, fan-outs included."""
        self.until(lambda: journal.settled(self.project.store, lsn), f"the store is at {lsn:X}", timeout)


def hub_yaml(
    source: str,
    store: str,
    *,
    slot: str,
    fan_out: int | None = None,
    streams: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Of a hub that is named after its slot, in the mode of the test that runs."""
    kafka = mode.kafka()
    main: dict[str, Any] = {"url": source, "slot": slot}
    main |= {"kafka": kafka.source(slot)} if kafka else {}
    main |= {"streams": streams} if streams else {}
    settings: dict[str, Any] = {
        "hub": slot,
        "sources": {"main": main},
        "store": store,
        "console": {"listen": "127.0.0.1:0"},
        "network": {"allow": ["localhost"]},
    }
    return json.dumps(settings | ({"fan_out": fan_out} if fan_out else {}))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _pairs(words: list[str]) -> list[list[str]]:
    return [list(pair) for pair in pairwise(words)]


def _kill(process: psutil.Popen) -> None:
    if process.poll() is None:
        for one in (*process.children(recursive=True), process):
            one.kill()
        process.wait(10)
