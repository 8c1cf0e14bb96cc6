"""A server as a local process, which can be killed and started again on the same data and ports."""

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from hub.errors import OutsideError
from stack.jars import Jars
from stack.settings import HERE, read_properties

START_SECONDS = 90.0  # on two slow cores that do other things too
END_SECONDS = 30.0
LOOK_SECONDS = 0.1
# Below those that the kernel gives to connections: a port must still be free after a kill.
PORTS = range(15_000, 30_000)
PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)  # before any fork

# A small heap and a quick start; what it costs at full load does not matter here.
JVM = ("-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")


class LocalServer(ABC):
    """One process whose files are all in `directory`: settings, data, log and process number.

    `lasting`: it outlives the process that started it, and another one may stop it; otherwise it is killed when that
    process ends, however that comes.
    """

    name: str  # of its log and its other files

    def __init__(self, directory: Path, *, environ: Mapping[str, str] | None = None, lasting: bool = False) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / f"{self.name}.log"
        self._pid = self.directory / f"{self.name}.pid"
        self._environ = dict(environ or {})
        self._lasting = lasting
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def command(self) -> list[str]:
        """What is run. By its last two words a process whose number was kept is known as this server."""

    def settle_in(self) -> None:  # noqa: B027 - many have nothing to make
        """Make what is not there yet of settings and data."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it does its work; asked again and again while it starts."""

    def start(self) -> None:
        """Ready on return; nothing happens when it runs already. OutsideError, with its last words, when it fails."""
        if self.process() is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.settle_in()
            self._child = self._spawn()
            self._pid.write_text(str(self._child.pid))
        self._await_ready()

    def stop(self) -> None:
        """In order, and with force when that takes too long. Nothing happens when it does not run."""
        process = self.process()
        if process is not None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except psutil.TimeoutExpired:
                self.kill()
        self._forget()

    def kill(self) -> None:
        """As a crash would: SIGKILL, with its data left as they are."""
        process = self.process()
        if process is not None:
            process.kill()
            process.wait(END_SECONDS)
        self._forget()

    def restart(self) -> None:
        """On the same data and ports, after `kill` too."""
        self.stop()
        self.start()

    def process(self) -> psutil.Process | None:
        """The running server: the process of the number that was kept, if that is still this server.

        A child of our own needs no such look: right after its start it has no command line yet.
        """
        if self._child is not None:
            return None if self._child.poll() is not None else psutil.Process(self._child.pid)
        try:
            process = psutil.Process(int(self._pid.read_text()))
            if process.status() == psutil.STATUS_ZOMBIE:
                process.wait(END_SECONDS)
                return None
            return process if process.cmdline()[-2:] == self.command()[-2:] else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None

    def said(self) -> str:
        """The end of its log, and where the rest is."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-5:] if self.log.exists() else []
        return f"{' / '.join(lines) or 'it said nothing'} (see {self.log})"

    def _forget(self) -> None:
        """It has ended."""
        self._pid.unlink(missing_ok=True)
        if self._child is not None:
            self._child.poll()
            self._child = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self._environ},
                # Ctrl-C at the terminal is for who started it.
                start_new_session=True,
                preexec_fn=None if self._lasting or sys.platform != "linux" else _die_with_parent,
            )

    def _await_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process() is None:
                raise OutsideError(f"The local {self.name} ended while it started: {self.said()}")
            if time.monotonic() > end:
                raise OutsideError(f"The local {self.name} was not ready in {START_SECONDS:.0f} s: {self.said()}")
            time.sleep(LOOK_SECONDS)


class JavaServer(LocalServer):
    """The settings are made at the first start and kept, ports included."""

    main: str  # the Java class
    heap: str  # as -Xmx takes it
    jvm: Sequence[str] = JVM  # its other options

    def __init__(
        self, jars: Jars, directory: Path, *, environ: Mapping[str, str] | None = None, lasting: bool = False
    ) -> None:
        super().__init__(directory, environ=environ, lasting=lasting)
        self.jars = jars
        self.properties = self.directory / f"{self.name}.properties"

    def command(self) -> list[str]:
        return self.java(self.main, str(self.properties))

    def setting(self, name: str) -> str:
        """Of the settings that it was started with."""
        return read_properties(self.properties)[name]

    def java(self, main: str, *arguments: str) -> list[str]:
        """The command that runs a class of Kafka's."""
        options = [*self.jvm, f"-Xmx{self.heap}", f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"]
        return [find_java(), *options, "-cp", f"{self.jars.libs}/*", main, *arguments]


def find_java() -> str:
    """The `java` of JAVA_HOME or of the path. OutsideError when there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None) or shutil.which("java")
    if found is None:
        raise OutsideError("Java is not installed.", "apt-get install openjdk-17-jre-headless")
    return found


def free_ports(count: int) -> Sequence[int]:
    """Different ones at which nothing listens."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
