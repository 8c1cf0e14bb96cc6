"""Waking another process by signal instead of polling: a named pipe beside a SQLite store, LISTEN on Postgres.

A ring says only "look again"; rings that nobody has taken yet are one. A ring to a role that does not run is lost,
which is well: a role looks once when it starts.
"""

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg

from hub.errors import OutsideError


class Doorbell(Protocol):
    def fileno(self) -> int:
        """Readable when it has been rung: for select and asyncio's add_reader."""
        ...

    def clear(self) -> None:
        """Take the rings so far. Call it before looking, so that none is missed."""
        ...

    def wait(self, timeout: float | None) -> bool:
        """Block until it has been rung, at most `timeout` seconds; True if it was. Clears it."""
        ...

    def close(self) -> None: ...


@contextmanager
def heard(bell: Doorbell, rung: Callable[[], None], lost: Callable[[OutsideError], None]) -> Iterator[None]:
    """Have the running event loop call `rung` for each ring, and `lost` once when no more can come; then close it."""
    loop = asyncio.get_running_loop()

    def take() -> None:
        try:
            bell.clear()
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection that wakes us is gone
            loop.remove_reader(bell.fileno())
            lost(OutsideError(f"The store is lost: {error}.", "Check `store:`."))
        rung()

    loop.add_reader(bell.fileno(), take)
    try:
        yield
    finally:
        loop.remove_reader(bell.fileno())
        bell.close()


class PipeDoorbell:
    """One named pipe a role. Opened for reading and writing, so that it never reports its writers' end."""

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                pass

    def wait(self, timeout: float | None) -> bool:
        ready, _, _ = select.select([self._fd], [], [], timeout)
        if ready:
            self.clear()
        return bool(ready)

    def close(self) -> None:
        os.close(self._fd)


def ring_pipe(path: Path) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):  # nobody listens
            return
        raise
    try:
        with contextlib.suppress(BlockingIOError):  # full: rung already
            os.write(fd, b"!")
    finally:
        os.close(fd)


class ListenDoorbell:
    """LISTEN on a connection of its own."""

    def __init__(self, url: str, channel: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(f'LISTEN "{channel}"')
        self._fd = self._connection.fileno()  # a connection that is lost tells no more, and its reader is to be removed

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        for _ in self._connection.notifies(timeout=0):
            pass

    def wait(self, timeout: float | None) -> bool:
        # To its end: it has the connection's lock, which `clear` wants.
        rung = list(self._connection.notifies(timeout=timeout, stop_after=1))
        if rung:
            self.clear()
        return bool(rung)

    def close(self) -> None:
        self._connection.close()
