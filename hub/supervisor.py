"""`hub run`: one child process a role, restarted with back-off, ended together.

A child is the same command with `--role`. It holds the reading end of a pipe from its supervisor as its stdin: when
the supervisor dies, in whatever way, its children see the end of it and end too.
"""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hub.errors import HubError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0  # seconds before a restart: doubled each time
WELL_AFTER = 20.0  # seconds that a child has to run until its next restart is prompt again
GRACE = 30.0  # seconds that a child has to end by itself
BAD_INPUT = 2  # a child's exit code that no restart will change
TRIES_WHEN_IDLE_IS_WAITED_FOR = 3


class ChildEnded(HubError):
    """A role ended in a way that a restart can't mend."""

    def __init__(self, role: str, code: int) -> None:
        super().__init__(f"The {role} process ended with exit code {code}.", "Its last lines above say why.")
        self.exit_code = code if code in (1, 2, 3) else 1


@dataclass
class Child:
    """One role's process, and the ones after it."""

    name: str
    arguments: Sequence[str]
    essential: bool = True  # the others end when it cannot go on; where not, it is tried for ever
    longest_pause: float = LONGEST_PAUSE  # seconds
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0  # in a row
    restart_at: float = 0.0
    done: bool = False  # it ended as it should

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hub", *self.arguments],
            stdin=subprocess.PIPE,
            process_group=0,  # Ctrl-C is the supervisor's alone; one session, or the kernel weighs each by itself
        )
        self.started = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def pause(self) -> float:
        """Seconds until its next start."""
        if time.monotonic() - self.started > WELL_AFTER:
            self.failures = 0
        self.failures += 1
        return min(self.longest_pause, FIRST_PAUSE * 2.0 ** (self.failures - 1))


@dataclass
class Supervisor:
    """Runs children until `stop` is set."""

    children: list[Child]
    until_idle: bool = False
    share: Callable[[], Sequence[Child]] | None = None  # asked again and again: which are to run here by now
    daily: Callable[[], None] | None = None  # called once a day
    stop: threading.Event = field(default_factory=threading.Event)
    _bell: threading.Event = field(default_factory=threading.Event)  # a child ended, or it is time to stop

    def run(self) -> None:
        """Raises ChildEnded when a role can't go on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end())
        try:
            for child in self.children:
                self._start(child)
            self._watch()
        finally:
            self._end_children()

    def end(self) -> None:
        self.stop.set()
        self._bell.set()

    def _start(self, child: Child) -> None:
        child.start()
        log.info("role started", extra={"role": child.name, "pid": child.process.pid if child.process else 0})
        threading.Thread(target=self._await, args=(child.process,), daemon=True).start()

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._bell.set()

    def _watch(self) -> None:
        day = time.monotonic()
        while not self.stop.is_set():
            self._bell.wait(self._pause())
            self._bell.clear()
            if self.daily and time.monotonic() - day > 86400:
                day = time.monotonic()
                threading.Thread(target=self.daily, daemon=True).start()  # children are looked after meanwhile
            if self.stop.is_set():
                return
            if self.share:
                self._share(self.share())
            for child in self.children:
                self._look(child)
            if self.until_idle and self._all_idle():
                return

    def _share(self, wanted: Sequence[Child]) -> None:
        """Start what is to run here from now on, and end what is another worker's."""
        known = {child.name for child in self.children}
        names = {child.name for child in wanted}
        gone = [child for child in self.children if child.name not in names]
        _end([child.process for child in gone if child.process and child.alive])
        self.children[:] = [child for child in self.children if child.name in names]
        for child in wanted:
            if child.name not in known:
                self.children.append(child)
                self._start(child)

    def _pause(self) -> float:
        """Seconds until something is due."""
        if self.share:
            return 0.0  # it waits itself
        waiting = [child.restart_at for child in self.children if not child.alive and not child.done]
        soonest = min(waiting, default=time.monotonic() + 3600)
        return max(0.0, soonest - time.monotonic())

    def _look(self, child: Child) -> None:
        if child.alive or child.done:
            return
        if child.restart_at:
            if time.monotonic() >= child.restart_at:
                child.restart_at = 0.0
                self._start(child)
            return
        code = child.process.returncode if child.process else 1
        if self.until_idle and code == 0:
            child.done = True
            return
        hopeless = code == BAD_INPUT or (self.until_idle and child.failures + 1 >= TRIES_WHEN_IDLE_IS_WAITED_FOR)
        if hopeless and child.essential:
            raise ChildEnded(child.name, code)
        pause = child.pause()
        child.restart_at = time.monotonic() + pause
        log.warning("role ended", extra={"role": child.name, "code": code, "restart_in": f"{pause:g}s"})
        self._bell.set()

    def _all_idle(self) -> bool:
        """Captures end by themselves once caught up; then the others are asked to finish."""
        captures = [child for child in self.children if child.name.startswith("capture")]
        others = [child for child in self.children if child not in captures]
        if not all(child.done for child in captures):
            return False
        for child in others:
            if child.alive and child.process:
                child.process.send_signal(signal.SIGUSR1)
        return all(child.done for child in others)

    def _end_children(self) -> None:
        _end([child.process for child in self.children if child.process and child.alive])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 5.0)):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            process.send_signal(number)
        deadline = time.monotonic() + seconds
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("role does not end", extra={"pid": process.pid})
