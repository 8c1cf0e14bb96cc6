"""The legacy database of one trial, the project that a hub follows it with, and the truth about it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.oracle import truth
from tests.oracle.access import admit, fence, make_role, withdraw
from tests.oracle.command import Project, hub_yaml
from tests.oracle.compare import History
from tests.oracle.entities import Entity, as_yaml, random_entities
from tests.oracle.schema import Schema, random_schema
from tests.oracle.truth import Documents
from tests.oracle.writer import Writer


class Trial:
    """A seed's schema in a database, its entities, and the truth about them."""

    def __init__(self, url: str, seed: int, *, truncates: bool = True) -> None:
        """Makes the tables in the empty database at `url` and fills them."""
        self.url = url
        self.reader = ""  # the URL that the hub reads by
        self.schema: Schema = random_schema(seed)
        self.entities: tuple[Entity, ...] = random_entities(self.schema)
        self.connection = self.connect()
        for statement in self.schema.ddl():
            self.connection.execute(statement.encode())
        self.writer = Writer(self.connection, self.schema, str(seed), truncates)
        self.writer.fill()
        self.history = History()
        self.history.begin(self.state(), self.hidden())

    def connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.url, autocommit=True)
        for statement in truth.SESSION.split(";"):
            connection.execute(statement.encode())
        return connection

    def project(
        self,
        directory: Path,
        store: str,
        fan_out: int | None = None,
        streams: Mapping[str, Sequence[str]] | None = None,
    ) -> Project:
        """The hub's project for this trial, written to `directory`."""
        self.reader = self.reader or make_role(self.url)
        project = Project(directory, store)
        files = {f"entities/{entity.name}.yaml": as_yaml(self.schema, entity) for entity in self.entities}
        slot = self.connection.info.dbname  # a slot's name is the server's, not the database's
        project.write(files | {"hub.yaml": hub_yaml(self.reader, store, slot=slot, fan_out=fan_out, streams=streams)})
        return project

    def state(self) -> dict[str, Documents]:
        """The truth of now."""
        return {entity.name: truth.documents(self.connection, self.schema, entity) for entity in self.entities}

    def hidden(self) -> int:
        """How many root rows count as absent."""
        return sum(truth.hidden(self.connection, self.schema, entity) for entity in self.entities)

    def burst(self, commits: int) -> None:
        """Commit one after the other without waiting, and note the truth after each."""
        done = 0
        while done < commits:
            commit = self.writer.commit()
            if commit:
                self.history.record(commit, self.state(), self.hidden())
                done += 1

    def fence(self) -> int:
        """A WAL position that every commit so far is below."""
        return fence(self.connection)

    def admit(self, project: Project) -> None:
        """Do what the hub asks of the database's owner."""
        admit(project, self.url)

    def describe(self) -> str:
        """The seed with its schema and entities, for the message of a failure."""
        entities = "\n".join(as_yaml(self.schema, entity) for entity in self.entities)
        return f"seed {self.schema.seed}\n" + "\n".join(self.schema.ddl()) + "\n" + entities

    def close(self) -> None:
        self.connection.close()
        if self.reader:
            withdraw(self.url)


@contextmanager
def trial(url: str, seed: int, *, truncates: bool = True) -> Iterator[Trial]:
    made = Trial(url, seed, truncates=truncates)
    try:
        yield made
    finally:
        made.close()
