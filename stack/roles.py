"""The hub's roles and the example's receiver as background processes of this machine."""

import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from stack.servers import LocalServer

ASK_SECONDS = 2.0


class HubRole(LocalServer):
    """`hub run --role …` on a project; `name`: capture-1, dispatch-2, console."""

    def __init__(self, name: str, project: Path, directory: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self._project = project
        super().__init__(directory, environ=environ, lasting=True)

    def command(self) -> list[str]:
        role, _, number = self.name.partition("-")
        command = [sys.executable, "-m", "hub", "--project", str(self._project), "run", "--role", role]
        return command + (["--worker", self.name] if role == "capture" and number else [])

    def is_ready(self) -> bool:
        """The console says what it knows of the others; they are ready once they run."""
        if self.name != "console":
            return self.process() is not None
        try:
            return httpx.get(f"http://{self._environ['CONSOLE_LISTEN']}/healthz", timeout=ASK_SECONDS).is_success
        except httpx.HTTPError:
            return False


class Receiver(LocalServer):
    """A partner's service, at the address that the project's destinations have."""

    name = "receiver"

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        super().__init__(directory, environ=environ, lasting=True)

    def command(self) -> list[str]:
        port = self._environ.get("RECEIVER_URL", "").rpartition(":")[2]
        log = str(self.directory / "received.jsonl")
        return [sys.executable, "-m", "examples.conference.receiver", "--port", port, "--log", log]

    def is_ready(self) -> bool:
        try:
            return httpx.get(self._environ["RECEIVER_URL"], timeout=ASK_SECONDS).is_success
        except httpx.HTTPError:
            return False
