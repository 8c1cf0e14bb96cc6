"""What the acceptance tests share: databases without a hub in them."""

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest

from examples.postgres import LocalPostgres

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


def _administer(server: LocalPostgres, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(statement.encode())
