"""A stream that was followed in one way and is to be followed in the other: what `hub run` decides, by a real slot."""

import dataclasses
from pathlib import Path

import psycopg
import pytest

from hub.bootstrap import build_outside
from hub.changes import NO_CURSOR
from hub.errors import OutsideError
from hub.project import Project, Source

pytestmark = pytest.mark.integration

STREAM = "main/main"
KAFKA = {"bootstrap": "127.0.0.1:1", "connect": "http://127.0.0.1:1", "topic": "hub.main"}


@pytest.fixture
def confirmed(database: str) -> int:
    """Where a slot stands that has the database's name."""
    with psycopg.connect(database, autocommit=True) as connection:
        name = database.rpartition("/")[2]
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
        query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = %s"
        row = connection.execute(query, [name]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def project(database: str) -> Project:
    """Its source is followed by the engine."""
    source = Source("main", database, slot=database.rpartition("/")[2])
    return Project("shop", Path(), {"main": source}, {}, {}, {}, "sqlite:///hub.db")


def on_kafka(project: Project) -> Project:
    source = dataclasses.replace(project.sources["main"], kafka=KAFKA)
    return dataclasses.replace(project, sources={"main": source})


def test_the_engine_does_not_skip_what_only_the_topic_holds(project: Project, confirmed: int) -> None:
    """It goes on where Kafka Connect has read no further than the store; a gap of its own is one as ever."""
    engine = build_outside(project, STREAM)

    assert engine.missed(confirmed, 5) == ""
    with pytest.raises(OutsideError, match=r"its topic has what the store has not read yet\. Put `kafka:` back"):
        engine.missed(confirmed - 1, 5)
    assert "after the store's" in engine.missed(confirmed - 1, NO_CURSOR)


def test_kafka_connect_follows_after_it_was_registered(project: Project, confirmed: int) -> None:
    """Until then the next step is said, and nothing is taken for missed."""
    topic = build_outside(on_kafka(project), STREAM)

    with pytest.raises(OutsideError, match=r"engine has followed main/main so far\. Run `hub source register"):
        topic.missed(confirmed, NO_CURSOR)
    assert topic.missed(confirmed - 1, 5) == ""
