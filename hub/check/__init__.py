"""What is wrong in a project beyond its YAML: `load` has read it, this judges it.

Offline the project is held against itself; with the sources' catalogues, its tables and columns against them too.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hub.catalogue import Catalogue
from hub.check.catalogue import Unsupported, check_entity
from hub.check.connectors import check_connection
from hub.check.subscriptions import check_subscription
from hub.connector import ConnectorKind, Kinds, batch_of, settings_problems
from hub.documents import Shape
from hub.errors import InputError, Problem, ProjectError
from hub.project import Columns, Destination, EntityConfig, Place, Project, Relation
from hub.project.problems import Problems
from hub.project.streams import stream_of, tables_of


def check(
    project: Project,
    catalogues: Mapping[str, Catalogue] | None = None,
    unsupported: Unsupported | None = None,
    kinds: Kinds | None = None,
    known: Sequence[Problem] = (),
) -> list[Problem]:
    """Every problem and note, by place. `catalogues` is by source; the entities of any other are checked offline.

    `unsupported(column, server_version)` says why the way in cannot decode a column's type, None when it can.
    `kinds` knows the connectors; without it the destinations' own settings are not judged.
    `known` are the problems that reading it found: they come first at each place, and nothing that follows from them is
    said again.
    """
    problems = Problems(list(known))
    unread = {problem.file for problem in known}
    _check_use(project, problems)
    _check_streams(project, problems)
    shapes: dict[str, Shape | None] = {}
    for entity in project.entities.values():
        _check_names(entity, problems)
        catalogue = (catalogues or {}).get(entity.source)
        if catalogue is not None and not entity.derived and not _is_in(entity.place, unread):
            shapes[entity.name] = check_entity(entity, catalogue, problems, unsupported)
    connections: dict[str, tuple[ConnectorKind[Any], int | None]] = {}  # by destination
    if kinds is not None:
        for destination in project.destinations.values():
            if not _is_in(destination.place, unread) and (kind := _check_connector(destination, kinds, problems)):
                connections[destination.name] = kind, _check_settings(destination, kind, problems)
    for subscription in project.subscriptions.values():
        check_subscription(subscription, shapes.get(subscription.entity), problems)
        if subscription.to in connections:
            check_connection(subscription, *connections[subscription.to], problems)
    return [one for one in problems.in_order() if not (known and one.warning)]


def _is_in(place: Place | None, files: Collection[str]) -> bool:
    return place is not None and place.file in files


def _check_use(project: Project, problems: Problems) -> None:
    """What is defined and never used, or used in vain."""
    if not project.subscriptions:
        problems.note(None, "The project has no subscription: nothing is delivered.", "Write subscriptions/NAME.yaml.")
    used = {subscription.to for subscription in project.subscriptions.values()}
    used |= {name for entity in project.entities.values() for name in entity.derived_from}
    for destination in project.destinations.values():
        if destination.name not in used:
            problems.note(destination.place, f"No subscription delivers to {destination.name!r}.", "Use or delete it.")
    sources = {entity.source for entity in project.entities.values()}
    for source in project.sources.values():
        if source.name not in sources:
            problems.note(source.place, f"No entity is from the source {source.name!r}.", "Use or delete it.")
    for entity in project.entities.values():
        _check_forwarders(entity, project, problems)
    forwarders = {name for entity in project.entities.values() for name in entity.derived_from}
    for destination in project.destinations.values():
        if "forward" in destination.answers and destination.name not in forwarders:
            what = f"The destination {destination.name!r} may forward, and no derived entity is `from` it."
            problems.note(destination.places.get("answers"), what, "Write the entity, or delete 'forward'.")
    if project.console.host not in ("127.0.0.1", "localhost", "::1") and not project.console.token:
        problems.note(
            None, "The console listens beyond this machine without a token.", "Give it 'token: ${HUB_TOKEN}'."
        )


def _check_streams(project: Project, problems: Problems) -> None:
    """What streams cost: each keeps the rows of a table that is in several; a slot without entities keeps the log."""
    for source in project.sources.values():
        if not source.streams:
            continue
        place = source.places.get("streams") or source.place
        streams: dict[str, set[str]] = {}  # by table
        entities = [e for e in project.entities.values() if e.source == source.name and not e.derived]
        for entity in entities:
            for table in tables_of(entity):
                streams.setdefault(table, set()).add(stream_of(project, entity).split("/", 1)[1])
        for table, several in sorted(streams.items()):
            if len(several) > 1:
                problems.note(place, f"{table} is in the streams {', '.join(sorted(several))}: each keeps its rows.")
        if entities and "main" not in {stream for several in streams.values() for stream in several}:
            problems.note(
                place,
                f"No entity is in the stream main: its slot {source.slot}, where there is one, keeps the source's log.",
                "`hub status` says whether it is there, `hub source sql` how to drop it.",
            )


def _check_forwarders(entity: EntityConfig, project: Project, problems: Problems) -> None:
    for name in entity.derived_from:
        destination = project.destinations.get(name)
        if destination and "forward" not in destination.answers:
            what = f"The destination {name!r} may not forward, so {entity.name!r} gets no document from it."
            problems.note(entity.places.get("from"), what, f"Add 'answers: [forward]' to {name!r}.")


def _check_connector(destination: Destination, kinds: Kinds, problems: Problems) -> ConnectorKind[Any] | None:
    """The destination's connector; None when there is none."""
    try:
        return kinds(destination.connector)
    except ProjectError as error:  # the connector's own file is at fault
        for problem in error.problems:
            problems.add(Place(problem.file, problem.line, problem.column), problem.what, problem.remedy)
        return None
    except InputError as error:
        problems.add(destination.places.get("connector"), error.what, error.remedy)
        return None


def _check_settings(destination: Destination, kind: ConnectorKind[Any], problems: Problems) -> int | None:
    """How many documents the connector takes in one call; None when its settings are wrong."""
    wrong = settings_problems(kind, destination)
    for problem in wrong:
        place = Place(problem.file, problem.line, problem.column)
        problems.add(place, problem.what, problem.remedy, warning=problem.warning)
    if wrong:
        return None
    try:
        return batch_of(kind, destination)
    except Exception as error:  # noqa: BLE001 - it is the integrator's code, and what it says may hold a secret
        what = f"The connector {destination.connector} raises {type(error).__name__} when it is opened."
        problems.add(destination.place, what, "Let its `check` say what is wrong with the settings.")
        return None


def _check_names(level: EntityConfig | Relation, problems: Problems) -> None:
    """No two fields of one level have one name; at every depth."""
    _check_renames(level.columns, problems)
    relations = {relation.name for relation in level.relations}
    for field, place in _written_fields(level.columns):
        if field in relations:
            what = f"A relation and a column are both named {field!r}."
            problems.add(place, what, "Rename one: 'columns: {rename: {COLUMN: FIELD}}', or the relation.")
        if any(sign in field for sign in ".[]"):
            what = f"The field {field!r} cannot be named in a path, for its '.' or '['."
            problems.note(place, what, "Rename it with 'columns: {rename: …}'.")
    for relation in level.relations:
        _check_names(relation, problems)


def _check_renames(columns: Columns, problems: Problems) -> None:
    for column, field in columns.rename.items():
        place = columns.places.get(column)
        if column in columns.exclude or (columns.include is not None and column not in columns.include):
            problems.add(
                place, f"The column {column!r} is renamed, but left out.", "Include it, or delete the renaming."
            )
        if field in (columns.include or ()) and field not in columns.rename:
            problems.add(place, f"{column!r} is renamed to {field!r}, which is a column too.", "Choose another name.")


def _written_fields(columns: Columns) -> Iterable[tuple[str, Place | None]]:
    for column in dict.fromkeys((*(columns.include or ()), *columns.rename)):
        yield columns.rename.get(column, column), columns.places.get(column)
