"""The demo's processes: started with a log each, watched, and ended together whatever happens."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from hub.errors import FaultError, OutsideError

START_SECONDS = 30.0
END_SECONDS = 20.0
PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)  # before any fork


class Child:
    """One process in a session of its own: a Ctrl-C at the terminal reaches the demo alone, which ends its children."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def first_line(self) -> str:
        """What a server says when it is ready: its address. The rest of its output goes to the log."""
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(self._readline()), daemon=True)
        reader.start()
        reader.join(START_SECONDS)
        if not lines or not lines[0]:
            raise OutsideError(f"The {self.name} did not start: {self.said()}")
        self.drain()
        return lines[0]

    def drain(self) -> None:
        """Let its output flow into the log."""
        threading.Thread(target=self._copy, daemon=True).start()

    def check(self) -> None:
        """FaultError when it has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise FaultError(f"The {self.name} ended by itself with exit code {code}: {self.said()}")

    def said(self) -> str:
        """The end of its log, and where the rest is."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        return f"{' / '.join(lines) or 'it said nothing'} (see {self.log})"

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to it and all that it started when it takes too long."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        # What it may have left behind is in its process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is not None:
            return
        if number is signal.SIGKILL:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def _readline(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().decode().strip()

    def _copy(self) -> None:
        assert self._process.stdout
        with self.log.open("ab") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()


def _end_with_parent() -> None:
    """So that nothing is left even when the demo is killed with -9."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
