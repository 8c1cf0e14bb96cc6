"""Fresh stores of both kinds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.store.database import Store
from hub.store.migrate import upgrade


def sqlalchemy_url(libpq_url: str) -> str:
    return sa.make_url(libpq_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store without tables: a SQLite file, or a fresh Postgres database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'hub.db'}"
    else:
        url = sqlalchemy_url(request.getfixturevalue("database"))
    store = Store(url)
    yield store
    store.close()


@pytest.fixture
def store(empty_store: Store) -> Store:
    """A store as `hub run` makes it, of either kind."""
    upgrade(empty_store)
    return empty_store
