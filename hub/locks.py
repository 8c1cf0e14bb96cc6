"""One process a role: a lock that names its owner, on a file beside a SQLite store, in the server of a Postgres one."""

import fcntl
import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg

from hub.errors import OutsideError
from hub.store.database import Store
from hub.store.workers import living

RELEASE_SECONDS = 2.0  # for the server to hear that nobody waits for a lock any more
LOOK_SECONDS = 0.2  # within which a file lock that somebody only looks at is free again

# Seconds, and probes, after which the server ends the session of a machine that is gone.
_KEEPALIVE = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"


class Lock(Protocol):
    """Held until `release`, or until its process ends in whatever way."""

    def release(self) -> None: ...


def hold(store: Store, role: str) -> Lock:
    """Take the lock of a role. OutsideError, naming the owner, when another process has it."""
    return _FileLock(store, role) if store.is_sqlite else _ServerLock(store, role)


def await_turn(store: Store, role: str) -> Lock:
    """Take the lock of a role, now or as soon as its owner has ended; this returns at once.

    For who has the role by other means, so that the lock only tells of it. Postgres alone.
    """
    return _ServerLock(store, role, queue=True)


@contextmanager
def hold_all(store: Store, roles: Iterable[str]) -> Iterator[None]:
    """As `hold`, of several roles: while it lasts none of them can start."""
    with ExitStack() as held:
        for role in roles:
            held.callback(hold(store, role).release)
        yield


def owner(store: Store, role: str) -> str | None:
    """Who holds the lock of a role: "pid 17 on machine since 2026-01-02T03:04:05Z"; None when nobody does."""
    return owners(store, [role])[role]


def owners(store: Store, roles: Iterable[str]) -> dict[str, str | None]:
    """As `owner`, of several roles at once."""
    if store.is_sqlite:
        return {role: _file_owner(store, role) for role in roles}
    with psycopg.connect(_conninfo(store), autocommit=True) as connection:
        held = {role: _server_owner(connection, role) for role in roles}
    if "dispatch" in held:  # its workers hold leases instead
        held["dispatch"] = "; ".join(living(store)) or None
    return held


def _refuse(role: str, owner: str) -> OutsideError:
    return OutsideError(
        f"The {role} of this store is running already: {owner}.", "Stop that one first, or use another store."
    )


class _FileLock:
    def __init__(self, store: Store, role: str) -> None:
        path = store.path.with_name(f"{store.path.name}-{_plain(role)}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        if not self._take():
            self._file.seek(0)
            raise _refuse(role, _described(self._file.read()))
        self._file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, self._file)
        self._file.flush()

    def _take(self) -> bool:
        """Whoever asks for the owner holds it for a moment too: only a lock that stays is another role's."""
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(LOOK_SECONDS / 20)

    def release(self) -> None:
        self._file.truncate(0)
        self._file.close()


def _plain(role: str) -> str:
    return role.replace("/", "-").replace(" ", "-")


def _described(text: str) -> str:
    try:
        who = json.loads(text)
        return f"pid {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError):
        return "a process that is just starting"


def _file_owner(store: Store, role: str) -> str | None:
    path = store.path.with_name(f"{store.path.name}-{_plain(role)}.lock")
    try:
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _described(file.read())
    except FileNotFoundError:
        pass
    return None


class _ServerLock:
    """A session's advisory lock: it goes with the connection, soon after the machine of its owner is gone."""

    def __init__(self, store: Store, role: str, *, queue: bool = False) -> None:
        self._waiting: threading.Thread | None = None
        name = f"hub {role} {socket.gethostname()} {os.getpid()}"[:63]
        self._connection = psycopg.connect(_conninfo(store), autocommit=True, application_name=name)
        self._connection.execute(_KEEPALIVE)
        taken = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (_number(role),)).fetchone()
        if taken and taken[0]:
            return
        if queue:
            self._waiting = threading.Thread(target=self._await, args=(role,), name="lock", daemon=True)
            self._waiting.start()
            return
        holder = _server_owner(self._connection, role)
        self._connection.close()
        raise _refuse(role, holder or "a process that is just ending")

    def _await(self, role: str) -> None:
        with suppress(psycopg.Error):  # released meanwhile, or the server is gone: the lock says nothing then
            self._connection.execute("SELECT pg_advisory_lock(%s)", (_number(role),))

    def release(self) -> None:
        if self._waiting and self._waiting.is_alive():
            with suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=RELEASE_SECONDS)
            self._waiting.join(RELEASE_SECONDS)
        self._connection.close()


def _number(role: str) -> int:
    """Both halves of a bigint key: "hub" and the role."""
    return (0x687562 << 32) | zlib.crc32(role.encode())


def _conninfo(store: Store) -> str:
    return store.url.set(drivername="postgresql").render_as_string(hide_password=False)


def _server_owner(connection: psycopg.Connection[Any], role: str) -> str | None:
    query = (
        "SELECT a.application_name, a.pid, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database "
        "WHERE datname = current_database()) AND (l.classid::bigint << 32 | l.objid::bigint) = %s"
    )
    row = connection.execute(query, (_number(role),)).fetchone()
    if row is None:
        return None
    name = str(row[0]).removeprefix("hub ").removeprefix(role).strip()
    host, _, pid = name.rpartition(" ")
    return f"pid {pid} on {host} since {row[2].astimezone(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}"
