"""The store's versions: made, brought up to date and checked by the numbered migrations of the package `migrations`."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hub.errors import OutsideError
from hub.store.database import MissingStore, Store, require_here

if TYPE_CHECKING:
    from alembic.config import Config

UPGRADE_LOCK = 0x48554201  # Postgres advisory lock: two upgrades at one time would both make the tables


@cache
def revisions() -> tuple[str, ...]:
    """The numbers of the migrations that this hub knows, oldest first: "0001", "0002" …"""
    files = resources.files("migrations").joinpath("versions").iterdir()
    return tuple(sorted(file.name[:4] for file in files if file.name[:4].isdigit()))


def stored_revision(store: Store) -> str | None:
    """The number of the last migration that the store has been through; None for a database without a store."""
    with store.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return revision


def upgrade(store: Store) -> str | None:
    """Bring the store to this hub's version, all or nothing. The revision that it had; None when it is new.

    Raises OutsideError when the store is of a newer hub.
    """
    from alembic import command

    before = stored_revision(store)
    _refuse_newer(before, revisions())
    if before == revisions()[-1]:
        return before
    with store.write() as connection:
        if not store.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
        _claim_transaction(connection)
        command.upgrade(alembic_config(connection), "head")
    return before


def _claim_transaction(connection: sa.Connection) -> None:
    """The transaction is the store's, which the driver began: Alembic shall not take it for its own and commit it."""
    if not connection.in_transaction():
        connection.begin()


def alembic_config(connection: sa.Connection) -> "Config":
    """Alembic's settings without a file: the scripts lie in the installed package."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "migrations:")
    config.set_main_option("path_separator", "os")
    return config


def require_current(store: Store) -> None:
    """Raises OutsideError, with its remedy, when the store is missing, older or newer than this hub, or has moved."""
    require_newest(stored_revision(store), revisions(), store.place)
    with store.read() as connection:
        require_here(connection, store.place)


def require_newest(stored: str | None, known: Sequence[str], place: str) -> None:
    """The judgement of `require_current`, on the stored revision and those that the hub knows, oldest first."""
    if stored is None:
        raise MissingStore(place)
    _refuse_newer(stored, known)
    if stored != known[-1]:
        raise OutsideError(
            f"The store {place} is of version {stored}, this hub needs {known[-1]}.",
            "Stop the hub and run `hub store upgrade`.",
        )


def create_if_missing(store: Store) -> bool:
    """Make the store when there is none, its directory too. True when it was made."""
    if store.is_sqlite:
        store.path.parent.mkdir(parents=True, exist_ok=True)
    if stored_revision(store) is not None:
        return False
    upgrade(store)
    return True


def _refuse_newer(stored: str | None, known: Sequence[str]) -> None:
    if stored is not None and stored not in known:
        raise OutsideError(
            f"The store is of version {stored}, newer than this hub, which knows up to {known[-1]}.",
            "Install the hub that it was last used with, or a later one.",
        )
