"""Receivers of many sorts, each a process of its own that notes what it is sent before it answers.

    healthy    answers at once
    slow       takes 2 s for each request
    failing    answers 500 to three in ten, at random
    quota      takes 100 requests in 10 s; to the others it answers 429 with the seconds that are left
    hostile    by turns: a byte every half second, a body without end, a reset in mid-answer, a redirect to a metadata
               address, a zip bomb; but for the redirect each has begun as a 200

A dead one needs no process: `nobody` is an address where nobody listens.
"""

import asyncio
import itertools
import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hub.connector import Reply
from hub.kit.server import Asked, Behaviour, Server, bombs, drips, floods, resets, says

SLOW = 2.0  # seconds for a request
FAILING = 0.3  # share of the requests
QUOTA, WINDOW = 100, 10.0  # requests, seconds
METADATA = "http://169.254.169.254/latest/meta-data/"


@dataclass(frozen=True, slots=True)
class Noted:
    """A delivery that came in."""

    key: str
    version: int
    committed: float  # seconds since 1970, by the stamp in the row
    received: float
    status: int  # that it was answered

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300


class Inbox:
    """The process, from the benchmark's side."""

    def __init__(self, sort: str, directory: Path) -> None:
        self._log = directory / f"{sort}.jsonl"
        self._command = [sys.executable, "-m", "benchmarks.receivers", sort, str(self._log)]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def noted(self) -> list[Noted]:
        return [Noted(*json.loads(line)) for line in self._log.read_bytes().splitlines()]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()


@contextmanager
def nobody() -> Iterator[str]:
    """The address of a port that is taken, so that nothing else comes to listen there, and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# From the process's own side: each sort is what is answered to the first request, the second and so on.

Answers = Iterator[tuple[int, Behaviour]]  # the status, and what does it


def _status(status: int, headers: dict[str, str] | None = None) -> tuple[int, Behaviour]:
    return status, says(Reply(status, headers or {}))


async def _late(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(SLOW)
    await says(Reply(204))(asked, writer)


def _failing() -> Answers:
    chance = random.Random(1)
    while True:
        yield _status(500 if chance.random() < FAILING else 204)


def _quota() -> Answers:
    ends, left = 0.0, 0
    while True:
        now = time.monotonic()
        if now >= ends:
            ends, left = now + WINDOW, QUOTA
        left -= 1
        yield _status(204) if left >= 0 else _status(429, {"retry-after": str(math.ceil(ends - now))})


def _hostile() -> Answers:
    redirect = _status(302, {"location": METADATA})
    return itertools.cycle([(200, drips), (200, floods), (200, resets), redirect, (200, bombs)])


SORTS: dict[str, Callable[[], Answers]] = {
    "healthy": lambda: itertools.repeat(_status(204)),
    "slow": lambda: itertools.repeat((204, _late)),
    "failing": _failing,
    "quota": _quota,
    "hostile": _hostile,
}


async def _serve(sort: str, log: Path) -> None:
    answers = SORTS[sort]()
    noting = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def take(asked: Asked, writer: asyncio.StreamWriter) -> None:
        received, event = time.time(), json.loads(asked.body)
        committed = datetime.fromisoformat(event["data"]["document"]["placed_at"]).timestamp()
        status, answer = next(answers)
        line = [event["subject"], event["hubversion"], committed, received, status]
        os.write(noting, json.dumps(line).encode() + b"\n")
        await answer(asked, writer)

    async with Server(take) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
