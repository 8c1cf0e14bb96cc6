"""A project directory into a `hub.project.Project`: the files, one noun each, then the references between them.

All the problems of a project come at once, as one ProjectError; each has its file, line and column.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hub.errors import Problem, ProjectError
from hub.project import (
    Columns,
    Console,
    DeliveryPolicy,
    Destination,
    EntityConfig,
    Limits,
    Network,
    Place,
    Project,
    Relation,
    Retention,
    Source,
    SubscriptionConfig,
)
from hub.project.addresses import allowed_networks, console_address, source_url_fault, store_url
from hub.project.problems import Problems
from hub.project.references import check_references
from hub.project.yaml_fields import NAME, Fields
from hub.project.yaml_source import Node, places, read_yaml

HUB_FILE = "hub.yaml"
FOLDERS = {"entities": "entity", "destinations": "destination", "subscriptions": "subscription"}  # and their noun

DEFAULT_FAN_OUT = 1000
EVENTS = ("created", "updated", "deleted", "snapshot")
KINDS = ("belongs_to", "has_one", "has_many", "many_to_many")
_NESTED = ("columns", "soft_delete", "refresh", *KINDS)
_RELATION = ("table", "foreign_key", "references")

# Every key that a project may hold, by the map it belongs to; docs/project.md describes each.
KEYS: Mapping[str, tuple[str, ...]] = {
    "hub": ("hub", "sources", "store", "console", "network", "retention", "fan_out"),
    "source": ("url", "slot", "streams", "kafka"),
    "kafka": ("bootstrap", "connect", "topic"),
    "console": ("listen", "token"),
    "network": ("allow",),
    "retention": ("documents", "attempts"),
    "entity": ("entity", "source", "table", "key", "columns", "soft_delete", "derived", "from", *KINDS),
    "columns": ("include", "exclude", "rename"),
    "belongs_to": (*_RELATION, *_NESTED),
    "has_one": (*_RELATION, "order_by", *_NESTED),
    "has_many": (*_RELATION, "order_by", *_NESTED),
    "many_to_many": (*_RELATION, "through", "related_key", "related_references", "order_by", *_NESTED),
    "destination": ("destination", "connector", "limits", "answers"),
    "limits": ("rate", "concurrency", "timeout"),
    "subscription": ("subscription", "entity", "to", "match", "where", "on", "changed", "when", "body", "delivery"),
    "delivery": ("mode", "batch", "delay", "retry", "expire", "on_park", "skip_unchanged"),
    "batch": ("size", "wait"),
}

T = TypeVar("T")


def load(directory: Path, environ: Mapping[str, str]) -> Project:
    """The project in `directory`; ProjectError with all of its problems when it has any."""
    project, problems = read(directory, environ)
    if project is None or problems:
        raise ProjectError(problems)
    return project


def read(directory: Path, environ: Mapping[str, str]) -> tuple[Project | None, list[Problem]]:
    """What can be read of the project, and its problems; None when hub.yaml gives nothing.

    With problems the project is for `hub check` alone, so that what else is wrong is said at once: where a value could
    not be read it has the default.
    """
    problems = Problems()
    files = _Files(directory.resolve(), environ, problems, set())
    root = files.root()
    project = _project(files, root) if root else None
    if project:
        check_references(project, files.incomplete, problems)
    return project, problems.in_order()


@dataclass(frozen=True, slots=True)
class _Files:
    """The project's files and what is wrong with them."""

    directory: Path
    environ: Mapping[str, str]
    problems: Problems
    incomplete: set[str]  # nouns of which a file could not be read, so that a missing name proves nothing

    def root(self) -> Node | None:
        if not (self.directory / HUB_FILE).is_file():
            what = "There is no such file, so this is no project directory."
            self.problems.add(
                Place(HUB_FILE, 0, 0), what, "Name one with --project DIR, or make one with 'hub init DIR'."
            )
            return None
        return self.tree(HUB_FILE)

    def tree(self, file: str) -> Node | None:
        try:
            content = (self.directory / file).read_bytes()
        except OSError as error:
            reason = error.strerror or "an error"
            self.problems.add(
                Place(file, 0, 0), f"The file cannot be read: {reason}.", "Make it readable, or delete it."
            )
            return None
        return read_yaml(content, file, self.environ, self.problems)

    def of(self, folder: str) -> Iterable[Node]:
        """The trees of a folder's files, by file name."""
        for path in sorted((self.directory / folder).glob("*")):
            file = f"{folder}/{path.name}"
            if path.suffix == ".yml":
                self.problems.add(
                    Place(file, 0, 0), "Files of a project end in .yaml.", f"Rename it to {path.stem}.yaml."
                )
            if path.suffix == ".yaml" and not path.name.startswith("."):
                tree = self.tree(file)
                if tree is None:
                    self.incomplete.add(FOLDERS[folder])
                else:
                    yield tree

    def nouns(self, folder: str, read: Callable[[Node], T]) -> dict[str, T]:
        """What `read` makes of each file, by name; a name that two files give is reported with both places."""
        noun = FOLDERS[folder]
        found: dict[str, T] = {}
        where: dict[str, Place] = {}
        for tree in self.of(folder):
            value = read(tree)
            name = str(getattr(value, "name", ""))
            place = Fields(tree, noun, None, Problems()).at(noun)
            if not name:
                self.incomplete.add(noun)
            elif name in where:
                first = where[name]
                what = f"The {noun} {name!r} is already defined in {first.file}:{first.line}."
                self.problems.add(place, what, "Rename or delete one of the two.")
            else:
                found[name], where[name] = value, place
        return found


def _project(files: _Files, root: Node) -> Project:
    problems = files.problems
    fields = Fields(root, HUB_FILE, KEYS["hub"], problems)
    name = fields.name("hub", "conference")
    sources = _sources(fields)
    only_source = next(iter(sources)) if len(sources) == 1 else ""
    if not sources:
        files.incomplete.add("source")
    entities = files.nouns("entities", lambda tree: _entity(tree, sources, only_source, problems))
    if not entities and "entity" not in files.incomplete:
        problems.add(
            Place(HUB_FILE, 0, 0),
            "The project has no entity.",
            "Write one: entities/NAME.yaml with 'entity: NAME' and 'table: TABLE'.",
        )
    network = _network(fields)
    return Project(
        name=name,
        directory=files.directory,
        sources=sources,
        entities=entities,
        destinations=files.nouns("destinations", lambda tree: _destination(tree, network, problems)),
        subscriptions=files.nouns("subscriptions", lambda tree: _subscription(tree, problems)),
        store=store_url(fields, files.directory),
        console=_console(fields),
        retention=_retention(fields),
        fan_out=fields.integer("fan_out", DEFAULT_FAN_OUT, 1, 1_000_000),
    )


def _sources(fields: Fields) -> dict[str, Source]:
    fields.require("sources", "{main: {url: ${SOURCE_URL}}}")
    below = fields.map("sources", None, "'sources'")
    if below is None:
        return {}
    if not below.entries:
        fields.wrong("sources", "names no source.", "Add 'main: {url: ${SOURCE_URL}}' below it.")
    return {name: _source(name, below) for name in below.entries if _is_name(name, below)}


def _is_name(name: str, fields: Fields, what: str = "source") -> bool:
    if NAME.fullmatch(name):
        return True
    fields.problems.add(fields.at(name), f"{name!r} is not a name for a {what}.", "Use only letters, digits, - and _.")
    return False


def _source(name: str, sources: Fields) -> Source:
    place = sources.at(name)
    fields = sources.map(name, KEYS["source"], f"the source {name!r}")
    if fields is None:
        return Source(name, "", "hub", place=place)
    url = fields.text("url", example="${SOURCE_URL}")
    fault = source_url_fault(url) if url else None
    if fault:
        fields.wrong("url", *fault)
    return Source(name, url, _slot(fields), _streams(fields), _kafka(fields), place, dict(_below(sources, name)))


def _below(fields: Fields, key: str) -> Iterable[tuple[str, Place]]:
    return places(fields.entries[key].value)


def _slot(fields: Fields) -> str:
    slot = fields.text("slot", "hub")
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_")
    if slot and (not set(slot) <= allowed or len(slot) > 50):
        fields.wrong(
            "slot",
            f"cannot be {fields.shown('slot')}.",
            "Postgres takes lower-case letters, digits and _, at most 50 here.",
        )
    return slot


def _streams(fields: Fields) -> dict[str, tuple[str, ...]]:
    below = fields.map("streams", None, "'streams'")
    if below is None:
        return {}
    for name in below.entries:
        if name == "main":
            fields.problems.add(
                below.at(name),
                "The stream 'main' cannot be listed: it takes the entities that no other stream names.",
                "Delete the line.",
            )
        elif not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") or not name or len(name) > 12:
            fields.problems.add(
                below.at(name),
                f"{name!r} is not a name for a stream: it becomes part of the slot's name.",
                "Use at most 12 lower-case letters, digits and _.",
            )
    return {name: below.names(name) for name in below.entries}


def _kafka(fields: Fields) -> dict[str, str]:
    below = fields.map("kafka", KEYS["kafka"], "'kafka'")
    if below is None:
        return {}
    below.require("bootstrap", "kafka:9092")
    below.require("connect", "http://connect:8083")
    return {key: below.text(key) for key in KEYS["kafka"] if below.has(key)}


def _console(fields: Fields) -> Console:
    below = fields.map("console", KEYS["console"], "'console'")
    if below is None:
        return Console()
    host, port = console_address(below)
    return Console(host, port, below.text("token", may_be_empty=True))


def _network(fields: Fields) -> Network:
    below = fields.map("network", KEYS["network"], "'network'")
    return Network() if below is None else Network(allowed_networks(below))


def _retention(fields: Fields) -> Retention:
    below = fields.map("retention", KEYS["retention"], "'retention'")
    default = Retention()
    if below is None:
        return default
    return Retention(below.seconds("documents", default.documents), below.seconds("attempts", default.attempts))


def _entity(tree: Node, sources: Mapping[str, Source], only_source: str, problems: Problems) -> EntityConfig:
    fields = Fields(tree, "the entity", KEYS["entity"], problems)
    name = fields.name("entity", "order")
    derived = fields.flag("derived", False)
    if derived:
        _check_derived(fields)
    elif fields.has("from"):
        fields.wrong("from", "is for derived entities only.", "Add 'derived: true', or delete the line.")
    source = fields.text("source", only_source)
    if not source and not derived and len(sources) > 1 and not fields.has("source"):
        problems.add(
            fields.place,
            "The entity does not say which source it is from.",
            f"Add 'source: NAME', one of {', '.join(sources)}.",
        )
    return EntityConfig(
        name=name,
        source=source,
        table="" if derived else _table(fields, "table"),
        key=fields.names("key"),
        columns=_columns(fields),
        soft_delete=fields.text("soft_delete"),
        relations=_relations(fields),
        derived=derived,
        derived_from=fields.names("from"),
        place=fields.at("entity"),
        places=fields.places(),
    )


def _check_derived(fields: Fields) -> None:
    fields.require("from", "[DESTINATION]")
    for key in ("table", "key", "columns", "soft_delete", *KINDS):
        if fields.has(key):
            fields.wrong(key, "is not for derived entities: receivers forward their documents.", "Delete the line.")


def _table(fields: Fields, key: str, example: str = "public.orders") -> str:
    """`schema.table`; what has no schema is in `public`."""
    text = fields.text(key, example=example)
    if '"' in text:
        fields.wrong(
            key,
            f"is {fields.shown(key)}, in quotes.",
            "Write names as in the catalogue, case kept, without double quotes.",
        )
    if text.startswith(".") or text.endswith("."):
        fields.wrong(
            key, f"is {fields.shown(key)}, which is no table's name.", "Write SCHEMA.TABLE, or TABLE for one in public."
        )
    return f"public.{text}" if text and "." not in text else text


def _columns(fields: Fields) -> Columns:
    below = fields.map("columns", KEYS["columns"], "'columns'")
    if below is None:
        return Columns()
    include, exclude = below.names("include"), below.names("exclude")
    if below.has("include") and below.has("exclude"):
        below.wrong(
            "exclude", "is given beside 'include'.", "Keep one of the two: what 'include' leaves out is excluded."
        )
    return Columns(include if below.has("include") else None, exclude, _rename(below), _column_places(below))


def _rename(fields: Fields) -> dict[str, str]:
    below = fields.map("rename", None, "'rename'")
    if below is None:
        return {}
    renamed = {column: below.text(column) for column in below.entries}
    for column, name in renamed.items():
        if name and list(renamed.values()).index(name) != list(renamed).index(column):
            below.wrong(column, "is the name of another renamed column.", "Give each its own name.")
    return {column: name for column, name in renamed.items() if name}


def _column_places(fields: Fields) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for key in ("rename", "exclude", "include"):
        node = fields.entries[key].value if fields.has(key) else None
        if node is None:
            continue
        written = fields.tree(key)
        names = written if isinstance(written, dict | list) else [written]
        where = [place for path, place in places(node) if "[" not in path[1:]] or [node.place]
        found.update({name: place for name, place in zip(names, where, strict=False) if isinstance(name, str)})
    return found


def _relations(fields: Fields) -> tuple[Relation, ...]:
    relations: list[Relation] = []
    for kind in KINDS:
        below = fields.map(kind, None, f"{kind!r}")
        for name in below.entries if below else ():
            assert below is not None
            if not _is_name(name, below, "relation"):
                continue
            first = next((one for one in relations if one.name == name), None)
            if first and first.place:
                what = f"The relation {name!r} is already defined in line {first.place.line}."
                fields.problems.add(below.at(name), what, "Rename one of the two: each is a field of the document.")
            relation = _relation(name, kind, below)
            relations += [relation] if relation else []
    return tuple(relations)


def _relation(name: str, kind: str, siblings: Fields) -> Relation | None:
    fields = siblings.map(name, KEYS[kind], f"the {kind} {name!r}")
    if fields is None:
        return None
    fields.require("foreign_key", f"{name}_id" if kind == "belongs_to" else "parent_id")
    many = kind == "many_to_many"
    if many:
        fields.require("related_key", f"{name}_id")
    relation = Relation(
        name=name,
        kind=kind,
        table=_table(fields, "table", f"public.{name}"),
        foreign_key=fields.names("foreign_key"),
        references=fields.names("references"),
        through=_table(fields, "through", f"public.parent_{name}") if many else "",
        related_key=fields.names("related_key"),
        related_references=fields.names("related_references"),
        columns=_columns(fields),
        order_by=fields.names("order_by"),
        soft_delete=fields.text("soft_delete"),
        refresh=fields.flag("refresh", True),
        relations=_relations(fields),
        place=siblings.at(name),
        places=fields.places(),
    )
    for key, other in (("references", relation.foreign_key), ("related_references", relation.related_key)):
        given = relation.references if key == "references" else relation.related_references
        if given and other and len(given) != len(other):
            fields.wrong(
                key, f"has {_count(given)}, its foreign key has {_count(other)}.", "Name as many, in the same order."
            )
    return relation


def _count(columns: tuple[str, ...]) -> str:
    return "1 column" if len(columns) == 1 else f"{len(columns)} columns"


def _destination(tree: Node, network: Network, problems: Problems) -> Destination:
    fields = Fields(tree, "the destination", None, problems)
    own = KEYS["destination"]
    return Destination(
        name=fields.name("destination", "crm"),
        connector=fields.text("connector", example="http"),
        limits=_limits(fields, network),
        answers=fields.choices("answers", ("reschedule", "forward"), ()),
        settings={key: fields.tree(key, float) for key in fields.entries if key not in own},
        place=fields.at("destination"),
        places={**fields.places(), **dict(places(tree))},
    )


def _limits(fields: Fields, network: Network) -> Limits:
    below = fields.map("limits", KEYS["limits"], "'limits'")
    default = Limits(network=network)
    if below is None:
        return default
    return Limits(
        rate=below.rate("rate"),
        concurrency=below.integer("concurrency", default.concurrency, 1, 1000),
        timeout=below.seconds("timeout", default.timeout, zero=False),
        network=network,
    )


def _subscription(tree: Node, problems: Problems) -> SubscriptionConfig:
    fields = Fields(tree, "the subscription", KEYS["subscription"], problems)
    match = fields.map("match", None, "'match'")
    return SubscriptionConfig(
        name=fields.name("subscription", "crm-orders"),
        entity=fields.text("entity", example="order"),
        to=fields.text("to", example="crm"),
        match=None if match is None else fields.tree("match"),
        where=fields.text("where"),
        on=fields.choices("on", EVENTS, EVENTS[:3]),
        changed=fields.names("changed"),
        when=fields.text("when"),
        body=fields.tree("body"),
        delivery=_delivery(fields),
        place=fields.at("subscription"),
        places=dict(places(tree)),
    )


def _delivery(fields: Fields) -> DeliveryPolicy:
    below = fields.map("delivery", KEYS["delivery"], "'delivery'")
    default = DeliveryPolicy()
    if below is None:
        return default
    batch = below.map("batch", KEYS["batch"], "'batch'")
    return DeliveryPolicy(
        mode=below.choice("mode", ("every", "latest"), default.mode),
        batch_size=batch.integer("size", default.batch_size, 1, 10_000) if batch else default.batch_size,
        batch_wait=batch.seconds("wait", default.batch_wait) if batch else default.batch_wait,
        delay=below.seconds("delay", default.delay),
        retry=below.durations("retry", default.retry),
        expire=below.seconds("expire", default.expire, zero=False),
        on_park=below.choice("on_park", ("continue", "hold"), default.on_park),
        skip_unchanged=below.flag("skip_unchanged", default.skip_unchanged),
    )
