"""Which stream an entity is in, and which tables an entity has."""

from collections.abc import Iterable

from hub.project import EntityConfig, Project, Relation


def stream_of(project: Project, entity: EntityConfig) -> str:
    """ "source/stream": the one that names the entity, else the source's "main"."""
    streams = project.sources[entity.source].streams
    return f"{entity.source}/{next((name for name, held in streams.items() if entity.name in held), 'main')}"


def entities_of(project: Project, stream: str) -> list[EntityConfig]:
    return [e for e in project.entities.values() if not e.derived and stream_of(project, e) == stream]


def tables_of(entity: EntityConfig) -> set[str]:
    """ "schema.table" of the root and of all that it embeds, tables between included."""
    return {entity.table, *_tables_below(entity.relations)}


def _tables_below(relations: Iterable[Relation]) -> set[str]:
    return {
        name
        for relation in relations
        for name in (relation.table, relation.through, *_tables_below(relation.relations))
        if name
    }
