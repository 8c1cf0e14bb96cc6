"""The references between a project's files: each names something that exists."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hub.project import Place, Project, Source
from hub.project.problems import Problems
from hub.project.suggestions import did_you_mean


def check_references(project: Project, incomplete: Collection[str], problems: Problems) -> None:
    """Report each name in one file that no other file defines; none of the nouns in `incomplete`."""
    references = _References(incomplete, problems)
    for entity in project.entities.values():
        if entity.source:
            references.check("source", entity.source, project.sources, entity.places.get("source"))
        for destination in entity.derived_from:
            references.check("destination", destination, project.destinations, entity.places.get("from"))
    for subscription in project.subscriptions.values():
        references.check("entity", subscription.entity, project.entities, subscription.places.get("entity"))
        references.check("destination", subscription.to, project.destinations, subscription.places.get("to"))
    for source in project.sources.values():
        _check_streams(source, project, references)
    _check_slots(project.sources.values(), problems)
    _check_topics(project.sources.values(), problems)


@dataclass(frozen=True, slots=True)
class _References:
    incomplete: Collection[str]
    problems: Problems

    def check(self, noun: str, name: str, defined: Mapping[str, object], place: Place | None) -> None:
        if name and name not in defined and noun not in self.incomplete and place is not None:
            self.problems.add(place, f"There is no {noun} {name!r}.", did_you_mean(name, defined))


def _check_streams(source: Source, project: Project, references: _References) -> None:
    seen: dict[str, str] = {}
    for stream, entities in source.streams.items():
        for index, name in enumerate(entities):
            place = source.places.get(f"streams.{stream}[{index}]") or source.places[f"streams.{stream}"]
            references.check("entity", name, project.entities, place)
            entity = project.entities.get(name)
            if entity and entity.derived:
                what = f"The stream {stream!r} names {name!r}, a derived entity, which no stream carries."
                references.problems.add(place, what, "Remove it from the stream.")
            elif entity and entity.source != source.name and entity.source in project.sources:
                what = f"The stream {stream!r} names the entity {name!r}, which is not of the source {source.name!r}."
                references.problems.add(place, what, "Remove it from the stream.")
            if name in seen:
                what = f"The entity {name!r} is in two streams, {seen[name]!r} and {stream!r}."
                references.problems.add(place, what, "Leave it in one: an entity's order comes from its stream.")
            seen.setdefault(name, stream)


def _check_slots(sources: Iterable[Source], problems: Problems) -> None:
    seen: dict[tuple[str, str], str] = {}
    for source in sources:
        first = seen.setdefault((source.url, source.slot), source.name)
        if source.url and first != source.name and source.place:
            what = f"The sources {first!r} and {source.name!r} share one database and slot."
            problems.add(source.place, what, "Make them one source, or give each its own slot.")


def _check_topics(sources: Iterable[Source], problems: Problems) -> None:
    seen: dict[tuple[str, str], str] = {}
    for source in sources:
        topic = source.kafka.get("topic", "")
        first = seen.setdefault((source.kafka.get("bootstrap", ""), topic), source.name)
        if topic and first != source.name:
            what = f"The sources {first!r} and {source.name!r} share the topic {topic}."
            problems.add(source.places.get("kafka.topic") or source.place, what, "Give each its own.")
