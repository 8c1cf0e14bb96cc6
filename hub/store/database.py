"""The store's connections: how SQLite and Postgres are opened, written to and woken.

SQLite: WAL, every write is BEGIN IMMEDIATE and has its turn by a file lock, so that two writers wait for each other
instead of failing. A write inside another one's would wait for itself: do not nest them. A writer holds the lock 50 ms
at most: long work is split by its caller.
"""

import fcntl
import math
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError

from hub.doorbell import Doorbell, ListenDoorbell, PipeDoorbell, ring_pipe
from hub.errors import OutsideError
from hub.store import tables

BUSY_TIMEOUT = 30.0  # seconds that a SQLite writer waits for the other one

# Postgres ends a transaction in which nothing is said for so long: its process has been stopped or its machine is gone,
# and it holds what its successor waits for. As long as Kafka takes to give its streams to another (hub run).
IDLE_TIMEOUT = 10.0  # seconds

UNTRIED = 1.0  # seconds that a connection to Postgres may have rested and is used again without a question


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


_NEW_NAME = sa.text("INSERT INTO name (kind, name) VALUES (:kind, :name) ON CONFLICT DO NOTHING")


class MissingStore(OutsideError):
    """There is no store yet."""

    def __init__(self, place: str) -> None:
        super().__init__(f"There is no store at {place}.", "`hub run` makes it.")


def require_here(connection: sa.Connection, place: str) -> None:
    """OutsideError when the store was copied to another one, which took its place."""
    moved_to = connection.execute(sa.select(tables.identity.c.moved_to)).scalar()
    if moved_to is not None:
        raise OutsideError(
            f"The store {place} has moved to {moved_to}: two that run would send one id with two contents.",
            "Set `store:` in hub.yaml to that one; `hub store copy --undo` gives a copy up that has never run.",
        )


class Store:
    def __init__(self, url: str, *, durable: bool = True) -> None:
        """`durable`: a commit is on disk before it returns, also through a power cut (SQLite only)."""
        self.url = sa.make_url(url)
        self.dialect = self.url.get_backend_name()
        self.is_sqlite = self.dialect == "sqlite"
        self._durable = durable
        self.engine = self._sqlite_engine() if self.is_sqlite else self._postgres_engine()
        # One pool, but BEGIN says it: as a statement it would be another round trip.
        self._views = (
            self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ")
        )
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

    def _postgres_engine(self) -> sa.Engine:
        engine = sa.create_engine(self.url)

        @sa.event.listens_for(engine, "connect")
        def configure(connection: psycopg.Connection[Any], _: Any) -> None:
            with connection.transaction():
                connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}s'")

        @sa.event.listens_for(engine, "checkin")
        def rest(_: psycopg.Connection[Any] | None, record: Any) -> None:
            record.info["rests_since"] = time.monotonic()

        @sa.event.listens_for(engine, "checkout")
        def try_out(connection: psycopg.Connection[Any], record: Any, _: Any) -> None:
            """The server may have been restarted. Not each time: that would be a seventh of a small commit."""
            if time.monotonic() - record.info.get("rests_since", math.inf) < UNTRIED:
                return
            try:
                with connection.transaction():
                    connection.execute("SELECT 1")
            except psycopg.OperationalError as error:
                raise DisconnectionError from error

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
        with self._views.connect() as connection:
            if self.is_sqlite:
                with _transaction(connection, "BEGIN"):
                    yield connection
            else:
                yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One store transaction: all of it or nothing. Who is to be rung is rung once it has committed.

        `durable=False`: others see it before it is on disk, where the next one takes it that is durable (SQLite only).
        """
        with self.engine.connect() as connection:
            rings = connection.info["rings"] = set[str]()
            if self.is_sqlite:
                self._synchronise(connection, self._durable and durable)
                with self._turn(connection), _transaction(connection, "BEGIN IMMEDIATE"):
                    yield connection
            else:
                with connection.begin():
                    yield connection
        for role in rings:
            self._ring(role)

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
            if not self.is_sqlite:  # two processes of a new store would make two
                connection.exec_driver_sql("LOCK TABLE identity IN SHARE ROW EXCLUSIVE MODE")
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
            if found is None:  # or another process makes it at this moment
                connection.execute(_NEW_NAME, {"kind": kind, "name": name})
                found = connection.execute(query).scalar_one()
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
        """Wake a role: once the transaction of `connection` has committed, or now where none is given.

        Who is killed between commit and ring has not rung. So who listens on Postgres looks again by itself now and
        then; on SQLite a role that finds nobody to ring looks when it starts.
        """
        if connection is None:
            self._ring(role)
        else:
            connection.info["rings"].add(role)

    def _ring(self, role: str) -> None:
        """On Postgres in a transaction of its own, which writes nothing and so waits for no disk.

        A transaction that notifies has the server's one lock for that until its commit is on disk: with NOTIFY in
        them, all capture workers' commits would go one after the other.
        """
        if self.is_sqlite:
            ring_pipe(self._pipe(role))
            return
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
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
