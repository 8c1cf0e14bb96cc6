"""The store's connections: how SQLite and Postgres are opened, written to and woken.

SQLite: WAL, every write is BEGIN IMMEDIATE and has its turn by a file lock, so that two writers wait for each other
instead of failing. A write inside another one's would wait for itself: do not nest them. A writer holds the lock 50 ms
at most: long work is split by its caller.
"""

import fcntl
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from hub.doorbell import Doorbell, ListenDoorbell, PipeDoorbell, ring_pipe
from hub.errors import OutsideError
from hub.store import tables

BUSY_TIMEOUT = 30.0  # seconds that a SQLite writer waits for the other one


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class MissingStore(OutsideError):
    """There is no store yet."""

    def __init__(self, place: str) -> None:
        super().__init__(f"There is no store at {place}.", "`hub run` makes it.")


class Store:
    def __init__(self, url: str, *, durable: bool = True) -> None:
        """`durable`: a commit is on disk before it returns, also through a power cut (SQLite only)."""
        self.url = sa.make_url(url)
        self.dialect = self.url.get_backend_name()
        self.is_sqlite = self.dialect == "sqlite"
        self._durable = durable
        self.engine = self._sqlite_engine() if self.is_sqlite else sa.create_engine(self.url, pool_pre_ping=True)
        self._ids: dict[tuple[str, str], int] = {}
        self._names: dict[int, str] = {}

    def _sqlite_engine(self) -> sa.Engine:
        arguments = {"timeout": BUSY_TIMEOUT, "check_same_thread": False}
        engine = sa.create_engine(self.url, connect_args=arguments, pool_reset_on_return=None)

        @sa.event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: Any) -> None:
            connection.isolation_level = None  # BEGIN is ours
            for pragma in (
                "journal_mode = WAL",
                "secure_delete = ON",  # what is erased, pruned or replaced is not to be found in free room
                "cache_size = -65536",
                "temp_store = MEMORY",
                "mmap_size = 4294967296",  # what the kernel has cached is read in place, without a copy
                "wal_autocheckpoint = 20000",
                f"busy_timeout = {int(BUSY_TIMEOUT * 1000)}",
            ):
                connection.execute(f"PRAGMA {pragma}")

        return engine

    @property
    def path(self) -> Path:
        assert self.is_sqlite and self.url.database
        return Path(self.url.database)

    @property
    def place(self) -> str:
        """How the store is named to people: its file, or its URL without the password."""
        return str(self.path) if self.is_sqlite else self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view."""
        with self.engine.connect() as connection:
            if self.is_sqlite:
                with _transaction(connection, "BEGIN"):
                    yield connection
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One store transaction: all of it or nothing.

        `durable=False`: others see it before it is on disk, where the next one takes it that is durable (SQLite only).
        """
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                with connection.begin():
                    yield connection
                return
            rings = connection.info["rings"] = set[str]()
            self._synchronise(connection, self._durable and durable)
            with self._turn(connection), _transaction(connection, "BEGIN IMMEDIATE"):
                yield connection
        for role in rings:
            ring_pipe(self._pipe(role))

    @staticmethod
    def _synchronise(connection: sa.Connection, durable: bool) -> None:
        """FULL takes a commit to the disk, and with it the log of all commits before it."""
        if connection.info.get("durable") is not durable:
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.info["durable"] = durable

    @contextmanager
    def _turn(self, connection: sa.Connection) -> Iterator[None]:
        """Wait for the other writer in the kernel, which wakes us at once.

        SQLite's own waiting looks again after pauses of up to 100 ms, and loses to a writer that begins again at once.
        """
        file = connection.info.get("turn")
        if file is None:
            path = self.path.with_name(f"{self.path.name}-write.lock")
            file = connection.info["turn"] = path.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def identity(self) -> str:
        """The store's own identity: made once, part of every delivery id."""
        with self.read() as connection:
            found = connection.execute(sa.select(tables.identity.c.id)).scalar()
        if found:
            return str(found)
        with self.write() as connection:
            found = connection.execute(sa.select(tables.identity.c.id)).scalar()
            if not found:
                found = uuid.uuid4().hex
                connection.execute(tables.identity.insert().values(id=found, created_at=now()))
        return str(found)

    def name_id(self, kind: str, name: str) -> int:
        """The small integer that stands for a name; made when it is new."""
        known = self._ids.get((kind, name))
        if known is not None:
            return known
        query = sa.select(tables.name.c.id).where(tables.name.c.kind == kind, tables.name.c.name == name)
        with self.write() as connection:
            found = connection.execute(query).scalar()
            if found is None:
                found = connection.execute(
                    tables.name.insert().values(kind=kind, name=name).returning(tables.name.c.id)
                ).scalar_one()
        self._ids[kind, name] = found
        self._names[found] = name
        return int(found)

    def find_name(self, kind: str, name: str) -> int | None:
        """As `name_id`, but None when the store has never met the name."""
        query = sa.select(tables.name.c.id).where(tables.name.c.kind == kind, tables.name.c.name == name)
        with self.read() as connection:
            return connection.execute(query).scalar()

    def name(self, id: int) -> str:
        """The name that `name_id` gave a number to."""
        if id not in self._names:
            with self.read() as connection:
                self._names.update((row.id, row.name) for row in connection.execute(sa.select(tables.name)))
        return self._names[id]

    def listen(self, role: str) -> Doorbell:
        """The doorbell of a role: dispatch, or "capture source/stream"."""
        if self.is_sqlite:
            return PipeDoorbell(self._pipe(role))
        return ListenDoorbell(
            self.url.set(drivername="postgresql").render_as_string(hide_password=False), f"hub_{role}"
        )

    def ring(self, role: str, connection: sa.Connection | None = None) -> None:
        """Wake a role: when the transaction of `connection` commits, or now where none is given."""
        if connection is None:
            with self.write() as own:
                self.ring(role, own)
        elif self.is_sqlite:
            connection.info["rings"].add(role)
        else:
            connection.exec_driver_sql(f'NOTIFY "hub_{role}"')

    def _pipe(self, role: str) -> Path:
        return self.path.with_name(f"{self.path.name}-{role.replace('/', '-').replace(' ', '-')}.bell")

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _transaction(connection: sa.Connection, begin: str) -> Iterator[None]:
    """On SQLite, by the driver itself: SQLAlchemy would spend a tenth of a small transaction's time on it."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    try:
        driver.execute(begin)
    except sqlite3.OperationalError as error:
        raise OperationalError(begin, None, error) from error
    try:
        yield
        driver.execute("COMMIT")
    except BaseException as error:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise OperationalError("COMMIT", None, error) from error
        raise


def open_store(url: str, *, durable: bool = True) -> Store:
    """The store at `url`, which must be of this version.

    Raises OutsideError when it cannot be reached, is older (hub store upgrade) or newer than this hub, or has moved
    (hub store copy); MissingStore when there is none.
    """
    from hub.store.migrate import require_current

    store = Store(url, durable=durable)
    if store.is_sqlite and not store.path.exists():
        raise MissingStore(store.place)
    try:
        require_current(store)
    except DBAPIError as error:
        raise OutsideError(f"The store cannot be opened: {error.orig}.", "Check `store:` in hub.yaml.") from error
    return store
