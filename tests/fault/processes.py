"""Hub workers as processes of their own: killed with all that they started, or stopped and woken up."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.oracle.command import HUB, Project

SHOWN = 4000  # characters of a worker's log
SECONDS = 120.0  # for the hub to do one thing


class Worker:
    """`hub run --role …` of its own, with a log of its own."""

    def __init__(self, project: Project, name: str, *arguments: str, role: str = "capture") -> None:
        """`name`: of its log; `arguments`: more of the command's."""
        self.name = name
        self.log = project.directory / f"{name}.log"
        with self.log.open("ab") as output:
            self.process = psutil.Popen(
                [HUB, "--project", project.directory, "run", "--role", role, *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def followers(self) -> list[psutil.Process]:
        """Of a capture worker: the processes of the streams that are its own."""
        return [child for child in self.process.children() if child.status() != psutil.STATUS_ZOMBIE]

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def stop(self) -> None:
        self._send(signal.SIGSTOP)

    def wake(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """With -9, with all that it started. Nothing where it has ended already. What it said is a failed test's."""
        if self.process.is_running():
            self._send(signal.SIGKILL)
            self.process.wait(10)
        print(f"--- the end of {self.log}", self.said()[-SHOWN:], sep="\n")

    def _send(self, number: signal.Signals) -> None:
        for one in self.family():
            with suppress(psutil.NoSuchProcess):  # its parent may have ended it at this moment
                one.send_signal(number)


def until(reached: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"{seconds} s passed, and not yet: {what}"
        time.sleep(0.1)
