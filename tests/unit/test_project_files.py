"""Reading a project directory: what it gives, and every way in which it can be wrong."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from hub.errors import Problem, ProjectError
from hub.project import DAY, HOUR, DeliveryPolicy, Limits, Place, Project
from hub.project.files import KEYS, load

ENVIRONMENT = {"LEGACY_URL": "postgresql://hub:p%40ss@db:5432/shop?sslmode=verify-full", "CRM_SECRET": "0123"}

FILES = {
    "hub.yaml": """\
hub: conference                       # name
sources:
  main:
    url: ${LEGACY_URL}
    slot: hub
    streams: {sales: [order]}
    kafka: {bootstrap: "kafka:9092", connect: "http://connect:8083", topic: hub.main}
store: sqlite:///var/hub.db
console: {listen: 127.0.0.1:8080, token: ${HUB_TOKEN:-}}
network: {allow: [localhost, 10.1.0.0/16, 192.0.2.7]}
retention: {documents: 30d, attempts: 7d}
fan_out: 1000
""",
    "entities/order.yaml": """\
entity: order
source: main
table: public.orders
key: id
columns: {exclude: [internal_note], rename: {cust_ref: customer_reference}}
belongs_to:
  customer: {table: customers, foreign_key: customer_id, columns: {include: [id, name, email]}, refresh: true}
has_many:
  lines:
    table: public.order_lines
    foreign_key: [order_id, country]
    references: [id, country]
    order_by: line_number
    soft_delete: deleted_at
    belongs_to:
      product: {table: public.products, foreign_key: product_id, refresh: false}
has_one:
  invoice: {table: billing.invoices, foreign_key: order_id}
many_to_many:
  tags: {table: public.tags, through: public.order_tags, foreign_key: order_id, related_key: tag_id}
""",
    "entities/lead_score.yaml": "entity: lead_score\nderived: true\nfrom: [crm]\n",
    "destinations/crm.yaml": """\
destination: crm
connector: http
url: https://crm.example.com/hooks
secret: ${CRM_SECRET}
limits: {rate: 100/10s, concurrency: 4, timeout: 1.5s}
answers: [reschedule, forward]
""",
    "subscriptions/crm-orders.yaml": """\
subscription: crm-orders
entity: order
to: crm
match:
  status: [paid, shipped]
  customer.country: [FR, BE]
  total: [{">=": 100.50}]
  lines[*]: {product.kind: [ticket], quantity: [{">": 1}]}
where: "doc.lines | length < 100"
on: [created, updated, deleted]
changed: [status, "lines[*].quantity"]
when: "doc.total | decimal > before.total | decimal"
body:
  email: "{{ doc.customer.email }}"
delivery:
  mode: latest
  batch: {size: 100, wait: 1s}
  delay: 5s
  retry: [5s, 5m, 1.5h]
  expire: 30d
  on_park: hold
""",
}


def write(directory: Path, changes: dict[str, str | bytes | None] | None = None) -> Path:
    """The valid project with some files replaced, or left out where the change is None."""
    for name, content in {**FILES, **(changes or {})}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def problems_of(directory: Path, environment: dict[str, str] = ENVIRONMENT) -> list[Problem]:
    with pytest.raises(ProjectError) as caught:
        load(directory, environment)
    return list(caught.value.problems)


def edited(name: str, old: str, new: str) -> dict[str, str | bytes | None]:
    assert old in FILES[name]
    return {name: FILES[name].replace(old, new, 1)}


def place_of(name: str, text: str) -> tuple[str, int, int]:
    """Where `text` first stands in a file of the valid project."""
    before = FILES[name].partition(text)[0]
    return name, before.count("\n") + 1, len(before) - before.rfind("\n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return load(write(tmp_path), ENVIRONMENT)


def test_every_key_of_the_contract_arrives(project: Project, tmp_path: Path) -> None:
    """The whole example of the contract is read into the nouns."""
    order, crm, subscription = (
        project.entities["order"],
        project.destinations["crm"],
        project.subscriptions["crm-orders"],
    )

    assert project.name == "conference"
    assert f"sqlite:///{tmp_path}/var/hub.db" == project.store
    assert (project.console.host, project.console.port, project.console.token) == ("127.0.0.1", 8080, "")
    assert (project.retention.documents, project.retention.attempts, project.fan_out) == (30 * DAY, 7 * DAY, 1000)
    assert project.sources["main"].streams == {"sales": ("order",)}
    assert {"bootstrap", "connect", "topic"} == set(project.sources["main"].kafka)
    assert ENVIRONMENT["LEGACY_URL"] == project.sources["main"].url
    assert (order.key, order.columns.exclude) == (("id",), ("internal_note",))
    assert order.columns.rename == {"cust_ref": "customer_reference"}
    assert [relation.name for relation in order.relations] == ["customer", "invoice", "lines", "tags"]
    assert Limits((100, 10.0), 4, 1.5, crm.limits.network) == crm.limits
    assert crm.answers == ("reschedule", "forward")
    assert crm.settings == {"url": "https://crm.example.com/hooks", "secret": "0123"}
    assert subscription.on == ("created", "updated", "deleted")
    assert subscription.changed == ("status", "lines[*].quantity")
    assert DeliveryPolicy("latest", 100, 1.0, 5.0, (5.0, 300.0, 1.5 * HOUR), 30 * DAY, "hold") == subscription.delivery


def test_relations_at_every_level(project: Project) -> None:
    """Lists and single columns become tuples, a table without a schema is in public, nested relations are kept."""
    customer, invoice, lines, tags = project.entities["order"].relations

    assert (customer.table, customer.foreign_key, customer.refresh) == ("public.customers", ("customer_id",), True)
    assert customer.columns.include == ("id", "name", "email")
    assert invoice.table == "billing.invoices"
    assert (lines.foreign_key, lines.references) == (("order_id", "country"), ("id", "country"))
    assert (lines.order_by, lines.soft_delete) == (("line_number",), "deleted_at")
    assert (lines.relations[0].name, lines.relations[0].refresh) == ("product", False)
    assert (tags.through, tags.foreign_key, tags.related_key) == ("public.order_tags", ("order_id",), ("tag_id",))


def test_a_derived_entity(project: Project) -> None:
    """It has no table, and names the destinations that may forward it."""
    derived = project.entities["lead_score"]

    assert (derived.derived, derived.derived_from, derived.table) == (True, ("crm",), "")


def test_a_pattern_is_kept_as_written(project: Project) -> None:
    """Numbers keep their digits; the places of each path are kept beside it."""
    subscription = project.subscriptions["crm-orders"]
    assert subscription.match is not None

    assert subscription.match["status"] == ["paid", "shipped"]
    assert [{">=": Decimal("100.50")}] == subscription.match["total"]
    assert subscription.match["lines[*]"] == {"product.kind": ["ticket"], "quantity": [{">": 1}]}
    assert Place("subscriptions/crm-orders.yaml", 6, 3) == subscription.places["match.customer.country"]
    assert Place("subscriptions/crm-orders.yaml", 5, 18) == subscription.places["match.status[1]"]
    assert Place("subscriptions/crm-orders.yaml", 8, 49) == subscription.places["match.lines[*].quantity[0]"]


def test_secrets_are_in_no_representation(project: Project) -> None:
    """Printing the project shows neither the source's URL nor a destination's secret."""
    assert "p%40ss" not in repr(project)
    assert "0123" not in repr(project)


def test_what_is_allowed_is_each_destinations_limit(tmp_path: Path) -> None:
    """Words stand for their networks; nothing is allowed by silence."""
    allowed = load(write(tmp_path), ENVIRONMENT).destinations["crm"].limits.network.allow
    silent = {**FILES, "hub.yaml": re.sub("network: .*\n", "", FILES["hub.yaml"])}

    assert [str(one) for one in allowed] == ["127.0.0.0/8", "::1/128", "10.1.0.0/16", "192.0.2.7/32"]
    assert load(write(tmp_path, silent), ENVIRONMENT).destinations["crm"].limits.network.allow == ()


def test_the_least_project(tmp_path: Path) -> None:
    """A source and an entity are enough; everything else has its default."""
    (tmp_path / "entities").mkdir()
    (tmp_path / "hub.yaml").write_text("hub: small\nsources: {main: {url: 'postgresql://a:b@c/d'}}\n")
    (tmp_path / "entities" / "thing.yaml").write_text("entity: thing\ntable: things\n")

    project = load(tmp_path, {})

    assert (
        project.entities["thing"].table,
        project.entities["thing"].source,
        project.sources["main"].slot,
    ) == ("public.things", "main", "hub")
    assert project.store.endswith("/var/hub.db")


@pytest.mark.parametrize(
    ("file", "old", "new", "at", "said"),
    [
        ("hub.yaml", "fan_out: 1000", "fanout: 1000", "fan_out", "has no key 'fanout'. Did you mean 'fan_out'?"),
        ("hub.yaml", "fan_out: 1000", "fan_out: many", "1000", "whole number"),
        ("hub.yaml", "fan_out: 1000", "fan_out: 0", "1000", "whole number from 1"),
        ("hub.yaml", "fan_out: 1000", "fan_out: true", "1000", "whole number"),
        ("hub.yaml", "30d", "30 days", "30d", "must be a duration, but is '30 days'"),
        ("hub.yaml", "30d", "30", "30d", "must be a duration"),
        ("hub.yaml", "30d", "99999999d", "30d", "must be a duration"),
        ("hub.yaml", "hub: conference", "hub: a conference", "conference", "not a name"),
        ("hub.yaml", "127.0.0.1:8080", "localhost", "127.0.0.1", "is not an address"),
        ("hub.yaml", "sqlite:///var/hub.db", "mysql://x/y", "sqlite", "neither a SQLite nor a Postgres URL"),
        ("hub.yaml", "sqlite:///var/hub.db", "sqlite://", "sqlite", "names no file"),
        ("hub.yaml", "10.1.0.0/16", "10.1.2.3/16", "[localhost", "Write 10.1.0.0/16, or 10.1.2.3 for that address"),
        ("hub.yaml", "10.1.0.0/16", "intern", "[localhost", "no network. Write addresses or networks, 10.0.0.0/8"),
        ("hub.yaml", "allow:", "alow:", "network", "has no key 'alow'. Did you mean 'allow'?"),
        ("hub.yaml", "slot: hub", "slot: My-Slot", "hub\n    streams", "lower-case"),
        ("hub.yaml", "${LEGACY_URL}", "mysql://a:b@c/d", "${LEGACY", "is not a Postgres URL"),
        ("hub.yaml", "${LEGACY_URL}", "postgresql://a:b@c", "${LEGACY", "names no database"),
        ("hub.yaml", "${LEGACY_URL}", "postgresql://a:b@c/d?sslmod=require", "${LEGACY", "Did you mean 'sslmode'"),
        ("hub.yaml", "${LEGACY_URL}", "postgresql://a:b@c/d?sslmode=verifyfull", "${LEGACY", "'verify-full'"),
        ("hub.yaml", "[order]", "[oder]", "order]", "There is no entity 'oder'. Did you mean 'order'?"),
        ("hub.yaml", "{sales: [order]}", "{sales: [order], more: [order]}", None, "in two streams, 'sales' and 'more'"),
        ("hub.yaml", "{sales: [order]}", "{main: [order]}", "sales", "The stream 'main' cannot be listed"),
        ("hub.yaml", "sales: [order]", "sales: [lead_score]", "order]", "a derived entity, which no stream carries"),
        ("hub.yaml", "main:\n", "ma in:\n", None, "'ma in' is not a name for a source"),
        ("entities/order.yaml", "table: public.orders", "tabel: public.orders", "table", "Did you mean 'table'?"),
        ("entities/order.yaml", "table: public.orders\n", "", "entity", "has no 'table'"),
        ("entities/order.yaml", "source: main", "source: mian", "source", "There is no source 'mian'"),
        (
            "entities/order.yaml",
            "table: public.orders",
            "table: [orders]",
            "public.orders",
            "must be text, but is a list",
        ),
        ("entities/order.yaml", "table: public.orders", "table: 12", "public.orders", 'Put it in quotes: "12".'),
        ("entities/order.yaml", "table: public.orders", "table:", "public.orders", "'table' of the entity is empty"),
        (
            "entities/order.yaml",
            "table: public.orders",
            "table: '\"Orders\"'",
            "public.orders",
            "without double quotes",
        ),
        ("entities/order.yaml", "key: id", "key: [id, id]", None, "names 'id' twice"),
        ("entities/order.yaml", "key: id", "key: []", "id\ncolumns", "empty list"),
        ("entities/order.yaml", "exclude: [internal_note]", "exclude: {a: b}", "[internal", "must be text or a list"),
        ("entities/order.yaml", "exclude: [int", "include: [a], exclude: [int", None, "beside 'include'"),
        ("entities/order.yaml", "refresh: true", "refresh: maybe", "true", "must be true or false, but is text"),
        ("entities/order.yaml", ", foreign_key: customer_id", "", None, "has no 'foreign_key'"),
        ("entities/order.yaml", ", related_key: tag_id", "", None, "has no 'related_key'"),
        (
            "entities/order.yaml",
            "references: [id, country]",
            "references: id",
            "[id, country]",
            "has 1 column, its foreign",
        ),
        ("entities/order.yaml", "  invoice:", "  customer:", "invoice", "The relation 'customer' is already defined"),
        ("entities/order.yaml", "has_many:", "has_mnay:", "has_many", "Did you mean 'has_many'"),
        ("entities/order.yaml", "key: id", "from: [crm]", "id\ncolumns", "for derived entities only"),
        (
            "entities/order.yaml",
            "has_one:\n  invoice:",
            "has_one:\n  - invoice:",
            "invoice: {",
            "must be a map, but is a list",
        ),
        ("entities/lead_score.yaml", "[crm]", "[cmr]", "from", "There is no destination 'cmr'"),
        (
            "entities/lead_score.yaml",
            "derived: true\n",
            "derived: true\ntable: x\n",
            None,
            "is not for derived entities",
        ),
        ("destinations/crm.yaml", "100/10s", "100 per second", "100/10s", "must be a rate"),
        ("destinations/crm.yaml", "100/10s", "0/10s", "100/10s", "must be a rate"),
        ("destinations/crm.yaml", "concurrency: 4", "concurency: 4", "concurrency", "Did you mean 'concurrency'?"),
        ("destinations/crm.yaml", "timeout: 1.5s", "timeout: 0s", "1.5s", "more than 0"),
        ("destinations/crm.yaml", "forward]", "foward]", "[reschedule", "Did you mean 'forward'?"),
        (
            "destinations/crm.yaml",
            "${CRM_SECRET}",
            "${CRM_SECRE}",
            "${CRM",
            "environment variable CRM_SECRE is not set",
        ),
        ("subscriptions/crm-orders.yaml", "entity: order", "entity: ordr", "entity", "Did you mean 'order'?"),
        ("subscriptions/crm-orders.yaml", "to: crm", "to: cmr", "to: crm", "There is no destination 'cmr'"),
        ("subscriptions/crm-orders.yaml", "to: crm\n", "", "subscription", "has no 'to'"),
        (
            "subscriptions/crm-orders.yaml",
            "updated, deleted]",
            "updatd, deleted]",
            "[created",
            "Did you mean 'updated'?",
        ),
        ("subscriptions/crm-orders.yaml", "mode: latest", "mode: newest", "latest", "Write every or latest"),
        ("subscriptions/crm-orders.yaml", "5m,", "5 m,", "5m", "must be a duration, but is '5 m'"),
        ("subscriptions/crm-orders.yaml", "on_park: hold", "on_park: stop", "hold", "Write continue or hold"),
        ("subscriptions/crm-orders.yaml", "size: 100", "size: 0", "100, wait", "whole number from 1"),
        (
            "subscriptions/crm-orders.yaml",
            '{">=": 100.50}',
            "{'>=': .nan}",
            None,
            "not a number that a document can hold",
        ),
    ],
)
def test_a_mistake_is_one_problem_at_its_place(
    tmp_path: Path, file: str, old: str, new: str, at: str | None, said: str
) -> None:
    """One sentence, with file, line, column and what to do."""
    (problem,) = problems_of(write(tmp_path, edited(file, old, new)))

    assert said in f"{problem.what} {problem.remedy}"
    assert problem.remedy
    assert file == problem.file
    if at is not None:
        line = place_of(file, at)[1]
        assert line == problem.line


@pytest.mark.parametrize(
    ("content", "line", "column", "said"),
    [
        ("entity: [order", 1, 15, "'[' is not closed"),
        ("entity: order\n\ttable: x", 2, 1, "never tabs"),
        ("entity: order: x", 1, 14, "no key can be"),
        ("entity: 'order\n", 2, 1, "never closed"),
        ("entity: order\ntable: x\n---\nentity: two", 3, 1, "more than one YAML document"),
        ("", 1, 1, "file is empty"),
        ("# nothing\n", 1, 1, "file is empty"),
        ("- order\n- two", 1, 1, "must be a map, but is a list"),
        ("order", 1, 1, "must be a map, but is text"),
        ("entity: order\nentity: two\ntable: x", 2, 1, "already given in line 1"),
        ("entity: order\ntable: *x", 2, 8, "no anchor"),
        (
            "entity: order\ntable: x\nbelongs_to: &a\n  b: {table: x, foreign_key: y, belongs_to: *a}",
            3,
            13,
            "itself inside of",
        ),
        ("entity: order\ntable: ${", 2, 8, "begins no reference"),
        ("entity: order\ntable: ${9LIVES}", 2, 8, "begins no reference"),
        ("entity: order\ntable: !!python/object:os.system x", 2, 8, "tag"),
        ("entity: order\ntable: x\n? [a, b]\n: c", 3, 3, "A key must be"),
        ('entity: order\ntable: "\\ud800"', 2, 8, "cannot be stored"),
        (b"entity: order\ntable: caf\xe9", 2, 11, "not UTF-8"),
        ("[" * 5000, 1, 1, "nested deeper"),
        ("entity: order\ntable: x\nkey: " + "[" * 70 + "]" * 70, 3, 69, "nested deeper"),
        ("entity: order\ntable: x\nkey: [" + "9" * 5000 + "]", 3, 7, "digits"),
        ("entity: order\ntable: x # " + "x" * 1_000_001, 1, 1, "bytes"),
    ],
)
def test_broken_yaml_is_a_sentence(tmp_path: Path, content: str | bytes, line: int, column: int, said: str) -> None:
    """Whatever the file holds, the problem says what is wrong in plain words, and where."""
    problems = problems_of(write(tmp_path, {"entities/extra.yaml": content}))
    problem = next(problem for problem in problems if problem.file == "entities/extra.yaml")

    assert said in f"{problem.what} {problem.remedy}"
    assert (line, column) == (problem.line, problem.column)


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    """Nine aliases of nine aliases of … would be a thousand million values: the reader stops at its bound."""
    lines = ["subscription: bomb", "entity: order", "to: crm", "body:", "  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]

    (problem,) = problems_of(write(tmp_path, {"subscriptions/bomb.yaml": "\n".join(lines)}))

    assert "aliases written out" in problem.what


def test_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    """An anchor's value can be used again; what is written beside `<<` goes before what is merged."""
    text = FILES["subscriptions/crm-orders.yaml"].partition("body:")[0]
    text += "delivery: {batch: &b {size: 5, wait: 2s}}\nbody: {one: &c {x: 1, y: 2}, two: {<<: *c, y: 3}}\n"

    project = load(write(tmp_path, {"subscriptions/crm-orders.yaml": text}), ENVIRONMENT)

    assert project.subscriptions["crm-orders"].body == {"one": {"x": 1, "y": 2}, "two": {"x": 1, "y": 3}}


@pytest.mark.parametrize("value", ["on", "[on, off, yes]", "'on'"])
def test_on_is_a_word(tmp_path: Path, value: str) -> None:
    """`on:` is the key it looks like, and on, off and yes are texts, also under a YAML 1.1 directive."""
    text = "%YAML 1.1\n---\n" + FILES["subscriptions/crm-orders.yaml"].partition("body:")[0] + f"body: {value}\n"

    subscription = load(write(tmp_path, {"subscriptions/crm-orders.yaml": text}), ENVIRONMENT).subscriptions[
        "crm-orders"
    ]

    assert subscription.on == ("created", "updated", "deleted")
    assert subscription.body in ("on", ["on", "off", "yes"])


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Problems of all files are reported together, in the order of their places."""
    changes = {
        **edited("hub.yaml", "fan_out", "fan_in"),
        **edited("entities/order.yaml", "key: id", "keys: id"),
        **edited("destinations/crm.yaml", "100/10s", "fast"),
        **edited("subscriptions/crm-orders.yaml", "entity: order", "entity: ordre"),
    }

    problems = problems_of(write(tmp_path, changes))

    files = ["destinations/crm.yaml", "entities/order.yaml", "hub.yaml", "subscriptions/crm-orders.yaml"]
    assert files == [problem.file for problem in problems]


@pytest.mark.parametrize("folder", ["entities", "destinations", "subscriptions"])
def test_two_files_with_one_name(tmp_path: Path, folder: str) -> None:
    """Both places are named."""
    first = next(name for name in FILES if name.startswith(folder) and "lead" not in name)

    (problem,) = problems_of(write(tmp_path, {f"{folder}/zz.yaml": "\n" + FILES[first]}))

    assert (f"{folder}/zz.yaml", 2, 1) == (problem.file, problem.line, problem.column)
    assert f"{first}:1" in problem.what


def test_an_unreadable_file_hides_no_other_and_blames_none(tmp_path: Path) -> None:
    """A broken entity is reported itself; subscriptions to it are not blamed."""
    (problem,) = problems_of(write(tmp_path, {"entities/order.yaml": "entity: [order"}))

    assert problem.file == "entities/order.yaml"


def test_an_entity_says_its_source_when_there_are_several(tmp_path: Path) -> None:
    """With two sources none is taken by default."""
    changes = {
        **edited("hub.yaml", "store:", "  other: {url: 'postgresql://a:b@c/other'}\nstore:"),
        **edited("entities/order.yaml", "source: main\n", ""),
    }

    problems = problems_of(write(tmp_path, changes))

    assert any("does not say which source" in problem.what for problem in problems)
    assert {"entities/order.yaml", "hub.yaml"} >= {problem.file for problem in problems}


def test_two_sources_of_one_slot(tmp_path: Path) -> None:
    """Two sources cannot read one slot of one database."""
    changes = edited("hub.yaml", "store:", "  other: {url: ${LEGACY_URL}}\nstore:")

    (problem,) = problems_of(write(tmp_path, changes))

    assert "share one database and slot" in problem.what


def test_no_project_directory(tmp_path: Path) -> None:
    """Without hub.yaml the remedy names --project and init."""
    (problem,) = problems_of(tmp_path)

    assert "hub init" in problem.remedy


def test_a_project_without_entities(tmp_path: Path) -> None:
    """It would deliver nothing, and says so."""
    only_hub = {name: None for name in FILES if name != "hub.yaml"}
    hub = FILES["hub.yaml"].replace("    streams: {sales: [order]}\n", "")

    (problem,) = problems_of(write(tmp_path, {**only_hub, "hub.yaml": hub}))

    assert "no entity" in problem.what


def test_a_yml_file_is_not_passed_over(tmp_path: Path) -> None:
    """A file that would be ignored for its ending is a problem."""
    (problem,) = problems_of(write(tmp_path, {"entities/late.yml": "entity: late\ntable: x\n"}))

    assert "late.yaml" in problem.remedy


REFERENCES: list[tuple[str, dict[str, str], str]] = [
    ("${A}", {"A": "x"}, "x"),
    ("${A}", {"A": ""}, ""),
    ("${A:-b}", {}, "b"),
    ("${A:-b}", {"A": ""}, "b"),
    ("${A:-}", {}, ""),
    ("${A:-a, b: {c #d}", {}, "a, b: {c #d"),
    ("pre-${A}-${B}-post", {"A": "1", "B": "2"}, "pre-1-2-post"),
    ("'${A}'", {"A": "it's: {"}, "it's: {"),
    ('"${A}"', {"A": 'say "\\n"'}, 'say "\\n"'),
    ("${A}", {"A": "true"}, "true"),
    ("${A}", {"A": "007"}, "007"),
    ("${A}", {"A": "${B}"}, "${B}"),
    ("$${A}", {"A": "x"}, "${A}"),
    ("a $${A:-b} c", {}, "a ${A:-b} c"),
    ("price $5", {}, "price $5"),
]


@pytest.mark.parametrize(("written", "environment", "expected"), REFERENCES)
@pytest.mark.parametrize("style", ["path: {}", "deep: {{path: {}, after: 1}}", "deep: [{}]"])
def test_references_to_the_environment(
    tmp_path: Path, style: str, written: str, environment: dict[str, str], expected: str
) -> None:
    """They are replaced in any value, in block and flow style, quoted or not; what comes in is always text."""
    text = f"destination: crm\nconnector: file\n{style.format(written)}\n"

    settings = (
        load(write(tmp_path, {"destinations/crm.yaml": text}), {**ENVIRONMENT, **environment})
        .destinations["crm"]
        .settings
    )

    deep = settings.get("deep")
    value = settings.get("path") if deep is None else deep["path"] if isinstance(deep, dict) else deep[0]
    assert expected == value


def test_references_move_no_column(tmp_path: Path) -> None:
    """A problem behind a reference on the same line is where the file has it."""
    text = "destination: crm\nconnector: http\nlimits: {rate: ${A:-5/s}, timeout: soon}\n"

    (problem,) = problems_of(write(tmp_path, {"destinations/crm.yaml": text}))

    assert (3, text.split("\n")[2].index("soon") + 1) == (problem.line, problem.column)


def test_references_in_comments_and_typed_values(tmp_path: Path) -> None:
    """A comment's references are nobody's business; a number may come from the environment."""
    changes = edited("hub.yaml", "fan_out: 1000", "fan_out: ${FAN_OUT} # not ${THIS} nor ${")

    assert load(write(tmp_path, changes), {**ENVIRONMENT, "FAN_OUT": "7"}).fan_out == 7


def test_no_message_holds_a_value_from_the_environment(tmp_path: Path) -> None:
    """A secret in the wrong place is named as it is written, by its variable."""
    secret = {**ENVIRONMENT, "S": "hunter2"}
    places = ["fan_out: 1000", "30d", "127.0.0.1:8080", "slot: hub", "sqlite:///var/hub.db", "hub: conference"]
    for place in places:
        key, _, _ = place.rpartition(": ")
        changes = edited("hub.yaml", place, f"{key}: ${{S}}" if key else "${S}")
        for problem in problems_of(write(tmp_path, changes), {**secret, "S": "hunter2!"}):
            assert "hunter2" not in str(problem)


def test_every_known_key_is_in_the_docs() -> None:
    """docs/project.md has each key that the code knows, in its section's table."""
    text = (Path(__file__).parents[2] / "docs" / "project.md").read_text()
    sections = dict(re.findall(r"^#+ `(\w+)`[^\n]*\n(.*?)(?=^#|\Z)", text, re.S | re.M))

    missing = [f"{s}.{key}" for s, keys in KEYS.items() for key in keys if f"| `{key}` |" not in sections.get(s, "")]
    unknown = [
        f"{section}.{key}"
        for section, body in sections.items()
        for key in re.findall(r"^\| `(\w+)` \|", body, re.M)
        if key not in KEYS.get(section, ())
    ]

    assert (missing, unknown) == ([], [])


def test_the_examples_of_the_docs_are_a_project(tmp_path: Path) -> None:
    """The files that docs/project.md shows can be read together."""
    text = (Path(__file__).parents[2] / "docs" / "project.md").read_text()
    files = dict(re.findall(r"^`([\w/.-]+\.yaml)`:\n\n```yaml\n(.*?)```", text, re.S | re.M))
    derived = re.findall(r"^A derived entity:\n\n```yaml\n(.*?)```", text, re.S | re.M)

    project = load(write(tmp_path, {**files, "entities/lead_score.yaml": derived[0]}), ENVIRONMENT)

    assert set(files) == {"hub.yaml", "entities/order.yaml", "destinations/crm.yaml", "subscriptions/crm-orders.yaml"}
    assert project.entities["lead_score"].derived
