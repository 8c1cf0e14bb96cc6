"""The project's entities as documents are made with them: by the catalogue that their streams began with."""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from hub.catalogue import Catalogue
from hub.entities import Entity, compile_entity
from hub.project import EntityConfig, Project
from hub.store import tables
from hub.store.database import Store


def stream_of(project: Project, entity: EntityConfig) -> str:
    """ "source/stream", which is "main" unless `streams:` says otherwise."""
    streams = project.sources[entity.source].streams
    name = next((name for name, entities in streams.items() if entity.name in entities), "main")
    return f"{entity.source}/{name}"


def stored_catalogue(store: Store, stream: str) -> Catalogue | None:
    """What the stream was started with; None before it was."""
    query = (
        sa.select(tables.stream.c.catalogue)
        .join(tables.name, tables.name.c.id == tables.stream.c.stream_id)
        .where(tables.name.c.kind == "stream", tables.name.c.name == stream)
    )
    with store.read() as connection:
        found = connection.execute(query).scalar()
    return msgspec.json.decode(found, type=Catalogue) if found else None


def stored_entities(store: Store, project: Project) -> Mapping[str, Entity]:
    """By name; without the derived ones, and those whose stream was never started."""
    configs = [config for config in project.entities.values() if not config.derived]
    streams = {config.name: stream_of(project, config) for config in configs}
    catalogues = {stream: stored_catalogue(store, stream) for stream in set(streams.values())}
    return {
        config.name: compile_entity(config, catalogue)
        for config in configs
        if (catalogue := catalogues[streams[config.name]]) is not None
    }
