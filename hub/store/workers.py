"""The dispatch workers of a Postgres store: who lives, and which slices of the destinations are whose.

A worker lives while it renews its lease. One that does not is forgotten by the next one that renews its own: its slices
are free then, and whatever it still wants to write is refused. Times are the server's, so that no two machines' clocks
are compared.
"""

import os
import socket
from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa

from hub.dispatch.slices import SLICES, Slice, assign
from hub.errors import OutsideError
from hub.store.database import Store, now, require_here

LEASE = 6.0  # seconds that a worker lives on without renewing
DOORBELL = "workers"  # rung when slices have become free

_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_UNTIL = f"{_CLOCK} + {int(LEASE * 1_000_000)}"


class Evicted(OutsideError):
    """This worker was taken for lost: others have its slices."""

    def __init__(self) -> None:
        super().__init__("This dispatch worker did not renew its lease in time, and others go on.", "It joins anew.")


class Standing(msgspec.Struct, frozen=True):
    """What a renewal came to."""

    mine: frozenset[Slice]
    surplus: frozenset[Slice]  # of mine: others should have them


class Membership:
    """This process as one of the store's dispatch workers."""

    def __init__(self, store: Store, destinations: Mapping[str, int]) -> None:
        """`destinations`: those it delivers to, with how many attempts at once they take."""
        self._store = store
        self._destinations = dict(destinations)
        self.id = 0

    def join(self) -> None:
        rows = [(name, number) for name in self._destinations for number in range(SLICES)]
        known = msgspec.json.encode(self._destinations).decode()
        with self._store.write() as connection:
            self.id = connection.exec_driver_sql(
                "INSERT INTO dispatch_worker (name, since, until, destinations)"
                f" VALUES (%s, %s, {_UNTIL}, %s) RETURNING id",
                (f"pid {os.getpid()} on {socket.gethostname()}", now(), known),
            ).scalar_one()
            connection.exec_driver_sql(
                "INSERT INTO dispatch_slice (destination, slice) SELECT * FROM unnest(%s::text[], %s::smallint[])"
                " ORDER BY 1, 2 ON CONFLICT DO NOTHING",
                ([name for name, _ in rows], [number for _, number in rows]),
            )
            require_here(connection, self._store.place)  # a copy under way had this wait for its end
            self._store.ring(DOORBELL, connection)

    def renew(self) -> Standing:
        """Live on for LEASE seconds, forget those who did not, and claim what should be this worker's and is free.

        Evicted when this worker was forgotten.
        """
        with self._store.write() as connection:
            alive = connection.exec_driver_sql(
                f"UPDATE dispatch_worker SET until = {_UNTIL} WHERE id = %s", (self.id,)
            ).rowcount
            if not alive:
                raise Evicted
            connection.exec_driver_sql(
                "DELETE FROM dispatch_worker WHERE id IN"
                f" (SELECT id FROM dispatch_worker WHERE until < {_CLOCK} FOR UPDATE SKIP LOCKED)"
            )
            owners = self._owners(connection)
            wanted = assign(self._workers(connection), owners)
            claimed = self._claim(connection, [one for one, id in wanted.items() if id == self.id])
        mine = {one for one, id in owners.items() if id == self.id} | claimed
        return Standing(frozenset(mine), frozenset(one for one in mine if wanted.get(one, self.id) != self.id))

    @staticmethod
    def _owners(connection: sa.Connection) -> dict[Slice, int]:
        query = "SELECT destination, slice, worker_id FROM dispatch_slice WHERE worker_id IS NOT NULL"
        return {(name, number): id for name, number, id in connection.exec_driver_sql(query)}

    @staticmethod
    def _workers(connection: sa.Connection) -> dict[int, dict[str, int]]:
        query = "SELECT id, destinations FROM dispatch_worker ORDER BY id"
        return {id: msgspec.json.decode(known) for id, known in connection.exec_driver_sql(query)}

    def _claim(self, connection: sa.Connection, slices: Iterable[Slice]) -> set[Slice]:
        chosen = sorted(slices)
        rows = connection.exec_driver_sql(
            "UPDATE dispatch_slice SET worker_id = %s WHERE (destination, slice) IN"
            " (SELECT destination, slice FROM dispatch_slice"
            "  WHERE worker_id IS NULL AND (destination, slice) IN (SELECT * FROM unnest(%s::text[], %s::smallint[]))"
            "  ORDER BY destination, slice FOR UPDATE SKIP LOCKED)"
            " RETURNING destination, slice",
            (self.id, [name for name, _ in chosen], [number for _, number in chosen]),
        )
        return {(name, number) for name, number in rows}

    def release(self, slices: Iterable[Slice]) -> None:
        """Nothing of them is on its way from here any more: others may claim them."""
        chosen = sorted(slices)
        with self._store.write() as connection:
            connection.exec_driver_sql(
                "UPDATE dispatch_slice SET worker_id = NULL WHERE worker_id = %s"
                " AND (destination, slice) IN (SELECT * FROM unnest(%s::text[], %s::smallint[]))",
                (self.id, [name for name, _ in chosen], [number for _, number in chosen]),
            )
            self._store.ring(DOORBELL, connection)

    def leave(self) -> None:
        with self._store.write() as connection:
            connection.exec_driver_sql("DELETE FROM dispatch_worker WHERE id = %s", (self.id,))
            self._store.ring(DOORBELL, connection)

    def require(self, connection: sa.Connection) -> None:
        """Evicted when this worker was forgotten; it cannot be before the transaction of `connection` ends."""
        query = "SELECT 1 FROM dispatch_worker WHERE id = %s FOR KEY SHARE"
        if connection.exec_driver_sql(query, (self.id,)).first() is None:
            raise Evicted


def living(store: Store) -> list[str]:
    """The dispatch workers that live, as "pid 17 on machine since 2026-01-02T03:04:05Z"; the oldest first."""
    query = (
        "SELECT name || ' since ' || to_char(to_timestamp(since / 1000000) AT TIME ZONE 'UTC',"
        f' \'YYYY-MM-DD"T"HH24:MI:SS"Z"\') FROM dispatch_worker WHERE until >= {_CLOCK} ORDER BY id'
    )
    with store.read() as connection:
        return list(connection.exec_driver_sql(query).scalars())
