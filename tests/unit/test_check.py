"""Judging a project: against itself, and against a catalogue."""

from pathlib import Path

import msgspec
import pytest

from hub.bootstrap import find_connectors
from hub.catalogue import Catalogue, Column, Kind, Table
from hub.check import check
from hub.errors import Problem
from hub.project import Project
from hub.project.files import load, read
from tests.unit.test_project_files import ENVIRONMENT

FILES = {
    "hub.yaml": "hub: shop\nsources: {main: {url: 'postgresql://a:b@c/d'}}\n",
    "entities/order.yaml": """\
entity: order
table: orders
columns: {exclude: [internal_note]}
belongs_to:
  customer: {table: customers, foreign_key: customer_id, columns: {include: [id, name]}}
has_many:
  lines:
    table: order_lines
    foreign_key: order_id
    order_by: line_number
many_to_many:
  tags: {table: tags, through: order_tags, foreign_key: order_id, related_key: tag_id}
""",
    "destinations/crm.yaml": "destination: crm\nconnector: http\nurl: https://example.com\n",
    "subscriptions/orders.yaml": """\
subscription: orders
entity: order
to: crm
match:
  status: [paid]
  total: [{">=": 100}]
  lines[*]: {quantity: [{">": 1}]}
where: "doc.lines | length < 100"
changed: [status, "lines[*].quantity"]
when: "doc.status != before.status"
body: {name: "{{ doc.customer.name }}", first: "{{ doc.lines[0].quantity }}"}
""",
}


def columns(**types: str) -> tuple[Column, ...]:
    """`id="int4"`, `total="numeric"`, `tags="text[]"`; every column is NOT NULL."""
    kinds = {
        "int4": Kind.INTEGER,
        "int8": Kind.INTEGER,
        "numeric": Kind.NUMERIC,
        "json": Kind.JSON,
        "citext": Kind.CITEXT,
    }
    kinds |= {"point": Kind.OTHER, "timestamptz": Kind.TIMESTAMPTZ, "interval": Kind.INTERVAL}
    return tuple(
        Column(name, type_, base := type_.removesuffix("[]"), kinds.get(base, Kind.TEXT), type_.endswith("[]"), True)
        for name, type_ in types.items()
    )


def table(name: str, key: tuple[str, ...] = ("id",), /, **types: str) -> Table:
    return Table(f"public.{name}", "r", "p", columns(**types), key, (key,) if key else ())


TABLES = (
    table(
        "orders", id="int8", customer_id="int8", status="text", total="numeric", internal_note="text", code="text",
        spot="point", memo="json", deleted_at="timestamptz", lasts="interval",
    ),
    table("customers", id="int8", name="text", email="citext", country="text", code="uuid"),
    table("order_lines", id="int8", order_id="int8", line_number="int4", quantity="int4", memo="json"),
    table("tags", id="int4", name="text"),
    table("order_tags", ("order_id", "tag_id"), order_id="int8", tag_id="int4"),
)  # fmt: skip
CATALOGUE = Catalogue({one.name: one for one in TABLES}, 160000)


def unsupported(column: Column, version: int) -> str | None:
    return f"There is no such type in {version}." if column.kind is Kind.OTHER else None


def project(
    directory: Path, name: str = "", old: str = "", new: str = "", more: dict[str, str] | None = None
) -> Project:
    """The valid project with one text replaced."""
    for file, text in {**FILES, **(more or {})}.items():
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        assert file != name or old in text
        path.write_text(text.replace(old, new, 1) if file == name else text)
    return load(directory, ENVIRONMENT)


def changed(name: str, **changes: object) -> Catalogue:
    """The catalogue with one table changed."""
    full = f"public.{name}"
    return msgspec.structs.replace(
        CATALOGUE, tables={**CATALOGUE.tables, full: msgspec.structs.replace(CATALOGUE.tables[full], **changes)}
    )


def judged(project: Project, catalogue: Catalogue | None = CATALOGUE) -> tuple[list[Problem], list[Problem]]:
    """Problems and notes."""
    found = check(project, {"main": catalogue} if catalogue else None)
    return [one for one in found if not one.warning], [one for one in found if one.warning]


def test_a_good_project_has_no_problem(tmp_path: Path) -> None:
    """Offline nothing is said at all; with the catalogue only notes."""
    good = project(tmp_path)

    assert judged(good, None) == ([], [])
    assert judged(good)[0] == []


def test_what_is_kept_in_the_row_image_only_is_listed(tmp_path: Path) -> None:
    """A key, join or order column that is left out of the document is a note."""
    order_by = "    order_by: line_number"
    good = project(tmp_path, "entities/order.yaml", order_by, f"{order_by}\n    columns: {{include: [quantity]}}")

    problems, notes = judged(good)

    assert not problems
    kept = [note.what for note in notes]
    assert any("'order_id' of public.order_lines" in what and "the join" in what for what in kept)
    assert any("'line_number' of public.order_lines" in what and "order_by" in what for what in kept)
    assert any("'id' of public.order_lines" in what and "primary key" in what for what in kept)
    assert {(note.file, note.line) for note in notes} == {("entities/order.yaml", 11)}


ENTITY = "entities/order.yaml"
SUBSCRIPTION = "subscriptions/orders.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "line", "said"),
    [
        (ENTITY, "table: orders", "table: ordres", 2, "has no table public.ordres. Did you mean 'public.orders'"),
        (ENTITY, "table: orders", "table: sales.orders", 2, "Did you mean 'public.orders'?"),
        (ENTITY, "[internal_note]", "[internal_notes]", 3, "no column 'internal_notes'. Did you mean 'internal_note'?"),
        (ENTITY, "[id, name]", "[id, nam]", 5, "no column 'nam'. Did you mean 'name'?"),
        (ENTITY, "exclude: [internal_note]", "rename: {statsu: state}", 3, "no column 'statsu'"),
        (ENTITY, "exclude: [internal_note]", "rename: {code: status}", 3, "renamed to 'status', which is a column"),
        (ENTITY, "exclude: [internal_note]", "rename: {code: lines}", 3, "both named 'lines'"),
        (ENTITY, "foreign_key: customer_id", "foreign_key: customer", 5, "Did you mean 'customer_id'?"),
        (ENTITY, "foreign_key: order_id\n", "foreign_key: orderid\n", 9, "order_lines has no column 'orderid'"),
        (ENTITY, "foreign_key: order_id\n", "foreign_key: [order_id, id]\n", 9, "are not as many columns"),
        (ENTITY, "order_by: line_number", "order_by: line_no", 10, "Did you mean 'line_number'"),
        (ENTITY, "order_by: line_number", "order_by: memo", 10, "cannot be ordered by 'memo', which is json"),
        (ENTITY, "customer_id, col", "customer_id, references: code, col", 5, "so it does not name one row"),
        (ENTITY, "foreign_key: customer_id", "foreign_key: status", 5, "(text) cannot be joined to 'id' of"),
        (ENTITY, "related_key: tag_id", "related_key: tagid", 12, "order_tags has no column 'tagid'"),
        (ENTITY, "through: order_tags", "through: tag_orders", 12, "has no table public.tag_orders"),
        (ENTITY, "table: orders", "table: orders\nkey: code", 3, "nor unique and not null. Name one of"),
        (ENTITY, "table: orders", "table: orders\nkey: cod", 3, "has no column 'cod'"),
        (ENTITY, "table: orders", "table: orders\nsoft_delete: deleted", 3, "Did you mean 'deleted_at'?"),
        (ENTITY, "  customer:", "  code:", 5, "The relation 'code' has the name of a column of public.orders"),
        (SUBSCRIPTION, "status: [paid]", "statsu: [paid]", 5, "Did you mean status?"),
        (SUBSCRIPTION, "status: [paid]", "status: [1]", 5, "never fits"),
        (SUBSCRIPTION, '{">=": 100}', '{">=": much}', 6, "never fits"),
        (SUBSCRIPTION, "{quantity: [", "{quantit: [", 7, "Did you mean quantity?"),
        (SUBSCRIPTION, "[status, ", "[statsu, ", 9, "Did you mean status?"),
        (SUBSCRIPTION, "lines[*].quantity\"]", "lines.quantity\"]", 9, "lines[*].quantity"),
        (SUBSCRIPTION, "doc.lines |", "doc.line |", 8, "There is no field doc.line. Did you mean 'lines'?"),
        (SUBSCRIPTION, "doc.customer.name", "doc.customer.nmae", 11, "doc.customer.nmae. Did you mean 'name'?"),
        (SUBSCRIPTION, "doc.status !=", "doc.stat !=", 10, "There is no field doc.stat"),
    ],
)  # fmt: skip
def test_what_the_catalogue_does_not_have(tmp_path: Path, file: str, old: str, new: str, line: int, said: str) -> None:
    """One problem, at the line that is wrong, with what was probably meant."""
    problems, _ = judged(project(tmp_path, file, old, new))

    (problem,) = problems
    assert said in f"{problem.what} {problem.remedy}"
    assert (problem.file, problem.line) == (file, line)
    assert problem.column > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relkind": "v"}, "a view"),
        ({"relkind": "m"}, "a materialized view"),
        ({"relkind": "f"}, "a foreign table"),
        ({"persistence": "u"}, "unlogged"),
        ({"persistence": "t"}, "temporary"),
        ({"primary_key": ()}, "the application's own UPDATE and DELETE on it would fail"),
        ({"primary_key": (), "replica_identity": "f"}, "cannot be told apart"),
        ({"replica_identity": "n"}, "REPLICA IDENTITY NOTHING"),
    ],
)
@pytest.mark.parametrize(("name", "line"), [("orders", 2), ("order_lines", 8), ("order_tags", 12)])
def test_tables_that_cannot_be_captured(
    tmp_path: Path, name: str, line: int, changes: dict[str, object], said: str
) -> None:
    """Whether root, child or between: refused with the reason, where it is named."""
    problems, _ = judged(project(tmp_path), changed(name, **changes))

    (problem,) = problems
    assert said in problem.what
    assert problem.remedy
    assert (problem.file, problem.line) == (ENTITY, line)


def test_a_partitioned_table_is_captured(tmp_path: Path) -> None:
    """Partitioned tables are captured through their root."""
    assert judged(project(tmp_path), changed("orders", relkind="p"))[0] == []


def test_a_unique_key_will_do(tmp_path: Path) -> None:
    """`key` and `references` may be any unique columns that are not null, in any order."""
    catalogue = changed("orders", unique_keys=(("id",), ("code", "status")))

    assert judged(project(tmp_path, ENTITY, "table: orders", "table: orders\nkey: [status, code]"), catalogue)[0] == []


def test_an_unsupported_type_is_refused_unless_excluded(tmp_path: Path) -> None:
    """The remedy is to leave it out, and that works."""
    refused = check(project(tmp_path), {"main": CATALOGUE}, unsupported)
    (problem,) = [one for one in refused if not one.warning]
    assert problem.what == "public.orders, column 'spot': There is no such type in 160000."
    assert "exclude: [spot]" in problem.remedy

    excluded = project(tmp_path, ENTITY, "[internal_note]", "[internal_note, spot]")
    assert not [one for one in check(excluded, {"main": CATALOGUE}, unsupported) if not one.warning]


@pytest.mark.parametrize(
    ("left", "right", "fits"),
    [
        ("int4", "int8", True),
        ("int8", "numeric", True),
        ("text", "varchar", True),
        ("varchar", "bpchar", True),
        ("uuid", "uuid", True),
        ("citext", "citext", True),
        ("inet", "cidr", True),
        ("text", "uuid", False),
        ("text", "citext", False),
        ("int4", "text", False),
        ("json", "json", False),
        ("interval", "interval", False),
        ("text[]", "text[]", False),
        ("xml", "xml", False),
    ],
)
def test_types_that_can_be_joined(tmp_path: Path, left: str, right: str, fits: bool) -> None:
    """Numbers with numbers, texts with texts; what Postgres cannot compare, or writes in two ways, not at all."""
    types = {column.name: column.type for column in CATALOGUE.tables["public.orders"].columns}
    catalogue = changed("orders", columns=columns(**{**types, "customer_id": left}))
    catalogue.tables["public.customers"] = table("customers", id=right, name="text")

    problems, _ = judged(project(tmp_path), catalogue)

    assert fits is not any("cannot be joined" in problem.what for problem in problems)


def test_a_table_inside_itself(tmp_path: Path) -> None:
    """A self-reference is an ordinary relation, to the depth written."""
    text = """\
entity: category
table: categories
belongs_to:
  parent: {table: categories, foreign_key: parent_id, belongs_to: {above: {table: categories, foreign_key: parent_id}}}
has_many:
  children: {table: categories, foreign_key: parent_id}
"""
    catalogue = changed("tags")
    catalogue.tables["public.categories"] = table("categories", id="int4", parent_id="int4", name="text")

    assert judged(project(tmp_path, more={"entities/category.yaml": text}), catalogue)[0] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (SUBSCRIPTION, "match:", "on: [created, snapshot]\nmatch:", "'changed' is about updates"),
        (SUBSCRIPTION, "when:", "delivery: {retry: [10h], expire: 5h}\nwhen:", "'retry' goes on longer than 'expire'"),
        ("hub.yaml", "hub: shop", "hub: shop\nconsole: {listen: '0.0.0.0:80'}", "without a token"),
        (
            "hub.yaml",
            "sources: {",
            "sources: {two: {url: 'postgresql://a:b@c/e'}, ",
            "No entity is from the source 'two'",
        ),
    ],
)
def test_lints(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    """What is no mistake but hardly meant is a note, offline too."""
    more = {ENTITY: FILES[ENTITY].replace("table: orders", "table: orders\nsource: main")}

    problems, notes = judged(project(tmp_path, file, old, new, more), None)

    assert not problems
    assert any(said in note.what for note in notes)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (SUBSCRIPTION, "doc.lines | length < 100", "doc.lines | < 100", "where"),
        (SUBSCRIPTION, "{{ doc.customer.name }}", "{{ doc.customer.name", "body.name"),
        (SUBSCRIPTION, 'lines[*].quantity"', 'lines["', "changed"),
        (ENTITY, "exclude: [internal_note]", "exclude: [a], rename: {a: b}", "renamed, but left out"),
        (ENTITY, "exclude: [internal_note]", "include: [a, b], rename: {a: b}", "which is a column too"),
        (ENTITY, "exclude: [internal_note]", "include: [id, lines]", "both named 'lines'"),
    ],
)
def test_what_is_wrong_without_a_catalogue(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    """Templates, paths and names are judged offline."""
    problems, _ = judged(project(tmp_path, file, old, new), None)

    (problem,) = problems
    assert said in problem.what
    assert problem.file == file
    assert problem.line > 0


def test_nothing_is_asked_of_a_derived_entity(tmp_path: Path) -> None:
    """It has no table to look for; a destination that may not forward is a note."""
    more = {"entities/score.yaml": "entity: score\nderived: true\nfrom: [crm]\n"}

    problems, notes = judged(project(tmp_path, more=more))

    assert problems == []
    assert any("may not forward" in note.what for note in notes)


def test_a_destination_that_forwards_to_nothing_is_a_note(tmp_path: Path) -> None:
    """All that it forwards would be parked."""
    _, notes = judged(project(tmp_path, "destinations/crm.yaml", "connector:", "answers: [forward]\nconnector:"))

    assert any("no derived entity is `from` it" in note.what for note in notes)


@pytest.mark.parametrize(("key", "written"), [("delay", "delay: 5d"), ("batch.wait", "batch: {wait: 5d}")])
def test_a_wait_that_outlasts_a_delivery_is_refused(tmp_path: Path, key: str, written: str) -> None:
    """Everything would be parked before it was sent."""
    text = f"delivery: {{{written}, expire: 1d}}\nwhen:"
    (problem,) = judged(project(tmp_path, SUBSCRIPTION, "when:", text), None)[0]

    assert f"'{key}' is not shorter than 'expire'" in problem.what
    assert problem.line > 0


def test_a_batch_of_one_that_waits_is_a_note(tmp_path: Path) -> None:
    """It is always full."""
    text = "delivery: {batch: {size: 1, wait: 5s}}\nwhen:"
    problems, notes = judged(project(tmp_path, SUBSCRIPTION, "when:", text), None)

    assert problems == []
    assert any("A batch of one never waits" in note.what for note in notes)


def test_a_projects_own_connector_is_judged_where_it_is(tmp_path: Path) -> None:
    """What is wrong in its file is said there, not at the destination that uses it."""
    destination = "destination: fax\nconnector: fax\n"
    found = project(tmp_path, more={"connectors/fax.py": "x = 1", "destinations/fax.yaml": destination})
    problems = check(found, kinds=find_connectors(found.directory))

    assert [one.file for one in problems if not one.warning] == ["connectors/fax.py"]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("", 1),
        ('body: {name: "{{ doc.name }}"}\n', 4),
        ('body: {email: ""}\n', 4),
        ('body:\n  deleted: {email: "{{ before.email }}"}\n  default: {name: x}\n', 6),
        ('body: {email: "{{ doc.email }}"}\n', None),
        ('body: "{{ doc }}"\n', None),
    ],
)
def test_fields_that_a_connector_requires_are_looked_for(tmp_path: Path, body: str, line: int | None) -> None:
    """At the subscription's body; one that is a template may have them."""
    more = {
        "connectors/fax.yaml": "connector: fax\nabout: x\nrequired: [email]\nupsert: {request: POST http://fax.example}\n",
        "destinations/fax.yaml": "destination: fax\nconnector: fax\n",
        "subscriptions/faxes.yaml": f"subscription: faxes\nentity: order\nto: fax\n{body}",
    }
    found = project(tmp_path, more=more)
    problems = [one for one in check(found, kinds=find_connectors(found.directory)) if not one.warning]

    said = [(one.file, one.line, one.what.partition(",")[0]) for one in problems]
    wanted = ("subscriptions/faxes.yaml", line, "'fax' refuses a delivery without email")
    assert said == ([] if line is None else [wanted])


FAX = {
    "connectors/fax.yaml": """\
connector: fax
about: x
settings: {size: {type: integer, default: 1}}
upsert: {request: PUT http://fax.example, batch: "{{ settings.size }}", item: {n: "{{ body.n }}"}, body: "{{ items }}"}
delete: {request: "DELETE http://fax.example/{{ key | urlencode }}"}
""",
    "destinations/fax.yaml": "destination: fax\nconnector: fax\n",
    "subscriptions/faxes.yaml": "subscription: faxes\nentity: order\nto: fax\nbody: {n: 1}\n",
}


def of_faxes(directory: Path, file: str, old: str, new: str) -> list[tuple[int, str, str, bool]]:
    """What is said of the subscription and the destination: line, sentence, remedy, whether it is a note."""
    found = project(directory, file, old, new, FAX)
    problems = check(found, kinds=find_connectors(found.directory))
    return [(one.line, one.what, one.remedy, one.warning) for one in problems if "fax" in one.file]


@pytest.mark.parametrize(
    ("old", "new", "line", "events"),
    [
        ("body: {n: 1}\n", "", 1, "created, updated"),
        ("body: {n: 1}\n", "on: [snapshot, deleted]\n", 1, "created"),
        ("body: {n: 1}", "body: {created: {n: 1}}", 4, "updated"),
        ("body: {n: 1}", "body: {default: {n: 1}}", None, ""),
        ("body: {n: 1}", "body: {created: {n: 1}}\non: [snapshot, deleted]", None, ""),
        ("body: {n: 1}\n", "on: [deleted]\n", None, ""),
    ],
)
def test_a_cloud_event_for_a_connector_that_sends_fields_is_a_note(
    tmp_path: Path, old: str, new: str, line: int | None, events: str
) -> None:
    """For the events whose request has the body in it; a delete by key has not."""
    said = of_faxes(tmp_path, "subscriptions/faxes.yaml", old, new)

    what = f"'fax' sends the fields of 'body', and there is none for {events}: it would send the whole CloudEvent."
    assert said == ([(line, what, "Write 'body: {FIELD: …}'.", True)] if line else [])


def test_a_batch_for_a_connector_that_takes_one_is_a_note(tmp_path: Path) -> None:
    """How many it takes may depend on the destination's settings."""
    batch = ("subscriptions/faxes.yaml", "body:", "delivery: {batch: {size: 10}}\nbody:")
    what = "'batch' has no effect: 'fax' takes one document at a time."

    assert of_faxes(tmp_path, *batch) == [(4, what, "Delete it.", True)]
    (tmp_path / "destinations/fax.yaml").write_text("destination: fax\nconnector: fax\nsize: 10\n")
    found = load(tmp_path, ENVIRONMENT)
    assert [one for one in check(found, kinds=find_connectors(found.directory)) if "fax" in one.file] == []


def test_a_connector_that_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    """What it raises may hold a secret, so only its kind is said."""
    wrong = ("destinations/fax.yaml", "connector: fax", "connector: bad")
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors/bad.py").write_text("""\
import msgspec
from hub.connector import ConnectorKind

class Settings(msgspec.Struct, frozen=True):
    pass

def opened(settings, limits):
    raise ValueError("hush")

CONNECTOR = ConnectorKind(Settings, opened)
""")
    what = "The connector bad raises ValueError when it is opened."

    assert of_faxes(tmp_path, *wrong) == [(1, what, "Let its `check` say what is wrong with the settings.", False)]


def test_one_mistake_hides_no_other(tmp_path: Path) -> None:
    """What reading finds and what judging finds come together; what follows from the first is not said again."""
    good = {name: text.encode() for name, text in FILES.items()}
    bad = {
        **good,
        ENTITY: good[ENTITY].replace(b"table: orders", b"tabel: orders"),
        SUBSCRIPTION: good[SUBSCRIPTION].replace(b"to: crm", b"to: cmr").replace(b"| length", b"| lenght"),
    }
    for name, text in bad.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)

    half, known = read(tmp_path, {})
    assert half is not None
    found = check(half, {"main": CATALOGUE}, unsupported, known=known)

    assert [(one.file, one.line) for one in found] == [(ENTITY, 2), (SUBSCRIPTION, 3), (SUBSCRIPTION, 8)]


@pytest.mark.parametrize(
    "body",
    [
        "{{ doc.nickname | default('none') }}",
        "{{ 'x' if doc.nickname is defined else 'y' }}",
        "{% set doc = {'a': 1} %}{{ doc.a }}",
        "{{ doc.customer.name.upper() }}",
        "{{ doc['status'] }}",
    ],
)
def test_templates_that_only_look_wrong(tmp_path: Path, body: str) -> None:
    """A field that is asked for with care is not missed."""
    from hub.check.templates import missing_fields
    from hub.entities import compile_entity

    shape = compile_entity(project(tmp_path).entities["order"], CATALOGUE).shape

    assert missing_fields(body, shape) == []


def test_tables_in_several_streams_and_a_stream_without_entities_are_noted(tmp_path: Path) -> None:
    """Neither is refused: both are what a split may cost."""
    invoice = """\
entity: invoice
table: invoices
belongs_to: {customer: {table: customers, foreign_key: customer_id}}
"""
    split = FILES["hub.yaml"].replace("d'}}", "d', streams: {sales: [order], billing: [invoice]}}}")
    notes = [
        (note.file, note.line, note.what)
        for note in check(project(tmp_path, more={"hub.yaml": split, "entities/invoice.yaml": invoice}))
        if note.warning and "stream" in note.what
    ]

    assert notes == [
        ("hub.yaml", 2, "public.customers is in the streams billing, sales: each keeps its rows."),
        (
            "hub.yaml",
            2,
            "No entity is in the stream main: its slot hub, where there is one, keeps the source's log.",
        ),
    ]
