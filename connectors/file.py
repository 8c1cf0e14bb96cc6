"""Deliver to a file: one JSON line a delivery, on disk before it counts as delivered."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from hub.connector import ConnectorKind, System, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.project import Limits

STDOUT = "-"
_encoder = msgspec.json.Encoder()


class FileSettings(msgspec.Struct, frozen=True):
    path: str  # `-` is standard output


class FileConnector:
    """Appends. A line that a crash cut short is ended first, so that what follows it is whole."""

    batch = 500

    def __init__(self, settings: FileSettings, limits: Limits) -> None:
        self._path = settings.path
        self._fd: int | None = None
        self._turn = asyncio.Lock()

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        lines = b"".join(map(line, messages))
        async with self._turn:
            # Shielded: a write goes on in its thread when the attempt's time is over, and nobody may write beside it.
            writing = asyncio.ensure_future(asyncio.to_thread(self._append, lines))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise
            except OSError as error:
                return [Outcome(OutcomeKind.HELD, f"{self._path} cannot be written: {error.strerror}.")] * len(messages)
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)

    def _append(self, lines: bytes) -> None:
        if self._fd is None:
            self._fd = self._open()
        try:
            _write_all(self._fd, lines)
            if self._path != STDOUT:
                os.fsync(self._fd)
        except OSError:
            self._shut()  # what is half written is ended at the next opening
            raise

    def _open(self) -> int:
        if self._path == STDOUT:
            sys.stdout.flush()
            return os.dup(sys.stdout.fileno())
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                _write_all(fd, b"\n")
        except OSError:
            os.close(fd)
            raise
        return fd

    def _shut(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def close(self) -> None:
        async with self._turn:
            self._shut()


def line(message: Message) -> bytes:
    """The rendered body as it is when that is JSON, else as a string; `id` beside it."""
    content: msgspec.Raw | str
    if message.content_type.endswith("json"):
        content = msgspec.Raw(message.content)
    else:
        content = message.content.decode("utf-8", "replace")
    fields = {
        "id": message.id,
        "subscription": message.subscription,
        "entity": message.entity,
        "key": message.key,
        "version": message.version,
        "event": message.event,
        "attempt": message.attempt,
        "body": content,
    }
    return _encoder.encode(fields) + b"\n"


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def check(settings: FileSettings) -> str | None:
    """What is wrong with the path."""
    return None if settings.path else "`path` is empty. Name a file, or - for standard output."


@asynccontextmanager
async def _a_file(directory: Path) -> AsyncIterator[System]:
    file = directory / "out.jsonl"
    yield System({"path": str(file)}, lambda key: key in file.read_text("utf-8"))


CONNECTOR = ConnectorKind(
    FileSettings,
    FileConnector,
    check,
    about="a file, one JSON line a delivery",
    trial=Trial({}, {"key": "{key}"}, system=_a_file),
)
