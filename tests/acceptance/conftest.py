"""What the acceptance tests share: a store of either kind."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from examples.postgres import LocalPostgres

MakeStore = Callable[[str], str]
MakeDatabase = Callable[[], str]


@pytest.fixture(scope="module")
def make_database(postgres: LocalPostgres) -> Iterator[MakeDatabase]:
    """Gives URLs, as superuser, of fresh databases without slots."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{uuid.uuid4().hex[:12]}")
        _administer(postgres, f'CREATE DATABASE "{made[-1]}"')
        return postgres.url(made[-1])

    yield make
    for name in made:
        _administer(postgres, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def make_store(postgres: LocalPostgres, tmp_path: Path) -> Iterator[MakeStore]:
    """Gives the URL of a store that is not there yet, of the kind asked for: sqlite or postgres."""
    name = f"store_{uuid.uuid4().hex[:12]}"

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / 'hub.db'}"
        _administer(postgres, f'CREATE DATABASE "{name}"')
        return postgres.url(name).replace("postgresql://", "postgresql+psycopg://", 1)

    yield make
    _administer(postgres, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _administer(server: LocalPostgres, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(statement.encode())
