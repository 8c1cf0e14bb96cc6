import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hub.errors import OutsideError
from hub.store.database import Store
from hub.store.migrate import (
    alembic_config,
    create_if_missing,
    require_current,
    require_newest,
    revisions,
    stored_revision,
    upgrade,
)
from hub.store.tables import metadata


def _sqlite_schema(store: Store) -> dict[str, str]:
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    return {name: re.sub(r"[\s\"]+", " ", sql) for name, sql in rows if name != "alembic_version"}


def test_migrations_make_what_the_tables_module_says(store: Store) -> None:
    """Metadata and migrations agree, column by column and index by index, on both dialects."""
    options = {"compare_type": True, "include_name": lambda name, *_: name not in ("born", "delivery_born")}  # by DDL
    with store.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert differences == []


def test_migrations_make_sqlite_tables_word_for_word(tmp_path: Path) -> None:
    """What a comparison of columns does not see is the same too: WITHOUT ROWID, AUTOINCREMENT."""
    migrated, created = Store(f"sqlite:///{tmp_path / 'a.db'}"), Store(f"sqlite:///{tmp_path / 'b.db'}")
    upgrade(migrated)
    with created.write() as connection:
        metadata.create_all(connection)

    assert _sqlite_schema(migrated) == _sqlite_schema(created)
    assert "WITHOUT ROWID" in _sqlite_schema(migrated)["row_image"]


def test_a_second_upgrade_changes_nothing(store: Store) -> None:
    """An upgrade of a current store reports the version that it has."""
    assert upgrade(store) == revisions()[-1]
    require_current(store)


def test_an_upgrade_is_all_or_nothing(empty_store: Store) -> None:
    """A migration that fails half way leaves no table behind."""
    with empty_store.write() as connection:
        metadata.tables["replay"].create(connection)

    with pytest.raises(sa.exc.DBAPIError):
        upgrade(empty_store)

    with empty_store.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["replay"]


def test_an_empty_database_holds_no_store(empty_store: Store) -> None:
    """It is refused with its remedy, and made by `create_if_missing`, once."""
    with pytest.raises(OutsideError, match="hub run"):
        require_current(empty_store)

    assert create_if_missing(empty_store) is True
    assert create_if_missing(empty_store) is False
    require_current(empty_store)


@pytest.mark.parametrize(("revision", "remedy"), [("0000", "Install the hub"), ("9999", "Install the hub")])
def test_a_newer_store_is_refused(store: Store, revision: str, remedy: str) -> None:
    """A store that went through a migration unknown to this hub is neither used nor upgraded."""
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")

    with pytest.raises(OutsideError, match=remedy):
        require_current(store)
    with pytest.raises(OutsideError, match=remedy):
        upgrade(store)


def test_an_older_store_asks_for_the_upgrade() -> None:
    """The sentence names both versions and the command that mends it."""
    with pytest.raises(OutsideError, match=r"version 0001, this hub needs 0002\. .*hub store upgrade"):
        require_newest("0001", ["0001", "0002"], "var/hub.db")


def test_revisions_are_alembics(store: Store) -> None:
    """The numbers in the file names are the chain of revisions, and the store is at its head."""
    with store.read() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))

    assert tuple(sorted(revision.revision for revision in script.walk_revisions())) == revisions()
    assert stored_revision(store) == script.get_current_head()
