from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from cdc.catalogue import read_catalogue
from cdc.values import SESSION, sql_expression
from hub.documents import decode, encode
from hub.entities import Entity, compile_entity
from hub.errors import OutsideError
from hub.operate.verify import Difference, LiveQuery, Verifier, named
from hub.project import Columns, EntityConfig, Relation
from hub.store import tables
from hub.store.database import Store

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text, secret text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customers, total numeric(10,2), note jsonb,
                     placed timestamptz, gone timestamptz);
CREATE TABLE lines (order_id int REFERENCES orders, number int, sku text, PRIMARY KEY (order_id, number));
CREATE TABLE invoices (id int PRIMARY KEY, order_id int REFERENCES orders);
CREATE TABLE tags (id int PRIMARY KEY, label text);
CREATE TABLE order_tags (order_id int REFERENCES orders, tag_id int REFERENCES tags, PRIMARY KEY (order_id, tag_id));
CREATE TABLE prices (sku text, country char(2), price money, PRIMARY KEY (sku, country));
INSERT INTO customers VALUES (1, 'Ada', 'x');
INSERT INTO orders VALUES (10, 1, 12.50, '{"n": 1.10, "k": [1, 2]}', '2024-01-02 03:04:05.12+01', NULL),
                          (11, NULL, NULL, NULL, NULL, NULL), (12, 1, 1, NULL, NULL, now());
INSERT INTO lines VALUES (10, 2, 'b'), (10, 1, 'B'), (11, 1, 'é');
INSERT INTO invoices VALUES (7, 10), (5, 10);
INSERT INTO tags VALUES (1, 'z'), (2, 'A'), (3, 'a');
INSERT INTO order_tags VALUES (10, 1), (10, 2), (10, 3);
INSERT INTO prices VALUES ('a"b', 'FR', '-3.50'), ('c', 'BE', '1');
"""

ORDER = EntityConfig(
    name="order",
    source="main",
    table="public.orders",
    columns=Columns(exclude=("gone",), rename={"total": "amount"}),
    soft_delete="gone",
    relations=(
        Relation("customer", "belongs_to", "public.customers", ("customer_id",), columns=Columns(exclude=("secret",))),
        Relation("lines", "has_many", "public.lines", ("order_id",), order_by=("sku",)),
        Relation("invoice", "has_one", "public.invoices", ("order_id",)),
        Relation(
            "tags",
            "many_to_many",
            "public.tags",
            ("order_id",),
            through="public.order_tags",
            related_key=("tag_id",),
            order_by=("label",),
        ),
        Relation("buyer", "belongs_to", "public.customers", ("customer_id",), refresh=False),
    ),
)
PRICE = EntityConfig(name="price", source="main", table="public.prices")

TEN = {
    "id": 10,
    "customer_id": 1,
    "amount": "12.50",
    "note": {"k": [1, 2], "n": decode(b"1.10")},
    "placed": "2024-01-02T02:04:05.12Z",
    "customer": {"id": 1, "name": "Ada"},
    "lines": [{"order_id": 10, "number": 1, "sku": "B"}, {"order_id": 10, "number": 2, "sku": "b"}],
    "invoice": {"id": 5, "order_id": 10},
    "tags": [{"id": 2, "label": "A"}, {"id": 3, "label": "a"}, {"id": 1, "label": "z"}],
}
ELEVEN = {
    "id": 11,
    "customer_id": None,
    "amount": None,
    "note": None,
    "placed": None,
    "customer": None,
    "lines": [{"order_id": 11, "number": 1, "sku": "é"}],
    "invoice": None,
    "tags": [],
}


@pytest.fixture
def source(database: str) -> Iterator[psycopg.Connection[Any]]:
    """The live database, with its rows."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def entity(source: psycopg.Connection[Any]) -> Entity:
    return compile_entity(ORDER, read_catalogue(source))


@pytest.fixture
def verifier(store: Store, source: psycopg.Connection[Any], database: str, entity: Entity) -> Verifier:
    """With a hub that has always stored everything."""
    connect = partial(psycopg.connect, database, autocommit=True)
    return Verifier(store, entity, connect, SESSION, sql_expression, lambda position: None)


def _kinds(found: list[Difference]) -> list[tuple[str, str]]:
    return sorted((one.key, one.kind) for one in found)


def test_one_query_gives_the_document(source: psycopg.Connection[Any], entity: Entity) -> None:
    """Every kind of relation, ordered as the contract says; what is soft-deleted or under `refresh: false` is out."""
    for name, value in SESSION.items():
        source.execute("SELECT set_config(%s, %s, false)", (name, value))

    rows = dict(source.execute(LiveQuery(entity, sql_expression).sql().encode()).fetchall())

    assert {key: named(entity, entity.root, decode(text.encode())) for key, text in rows.items()} == {
        "10": TEN,
        "11": ELEVEN,
    }


def test_what_is_right_is_no_difference(verifier: Verifier, rows: Any) -> None:
    """The part under `refresh: false` may be older than the row is now."""
    rows.versions("order", "10", TEN | {"buyer": {"id": 1, "name": "Ada, as she was"}})
    rows.versions("order", "11", {"id": 0}, ELEVEN)
    rows.versions("order", "9", ELEVEN, None)

    assert verifier.run() == []
    assert verifier.compared == 2


def test_every_kind_of_difference_is_found(verifier: Verifier, rows: Any) -> None:
    """A changed value, a row without document, a document without row, one of a soft-deleted row."""
    wrong = TEN | {"lines": [TEN["lines"][0], TEN["lines"][1] | {"sku": "c"}]}
    rows.versions("order", "10", wrong)
    rows.versions("order", "12", ELEVEN)
    rows.versions("order", "99", ELEVEN)

    found = verifier.run()

    assert _kinds(found) == [("10", "differs"), ("11", "no document"), ("12", "no row"), ("99", "no row")]
    assert next(one.paths for one in found if one.key == "10") == ("lines[10,2].sku",)
    assert [one.key for one in verifier.again(["10", "11"])] == ["10", "11"]


def test_a_sample_looks_at_both_sides(verifier: Verifier, rows: Any) -> None:
    """One document of the source and one of the journal."""
    rows.versions("order", "99", ELEVEN)

    assert {one.kind for one in verifier.run(sample=1)} == {"no document", "no row"}
    assert verifier.compared == 1


def test_composite_keys_of_any_type(store: Store, source: psycopg.Connection[Any], database: str, rows: Any) -> None:
    """Looked up by their text, quotes and blank-padded types included."""
    entity = compile_entity(PRICE, read_catalogue(source))
    connect = partial(psycopg.connect, database, autocommit=True)
    verifier = Verifier(store, entity, connect, SESSION, sql_expression, lambda position: None)
    rows.versions("price", '["a\\"b","FR"]', {"sku": 'a"b', "country": "FR", "price": "-3.50"})
    rows.versions("price", '["c","BE"]', {"sku": "c", "country": "BE", "price": "2"})
    rows.versions("price", '["c","LU"]', {"sku": "c", "country": "LU", "price": "1"})

    assert _kinds(verifier.run()) == [('["c","BE"]', "differs"), ('["c","LU"]', "no row")]


def test_commits_meanwhile_are_no_difference(
    store: Store, source: psycopg.Connection[Any], database: str, entity: Entity, rows: Any
) -> None:
    """What the hub stored between snapshot and comparison counts as right, before and after."""
    rows.versions("order", "10", TEN)
    rows.versions("order", "11", ELEVEN)
    connect = partial(psycopg.connect, database, autocommit=True)

    def traffic(position: int) -> None:
        source.execute("UPDATE orders SET total = total + 1 WHERE id = 10")
        (total,) = source.execute("SELECT total FROM orders WHERE id = 10").fetchone() or (None,)
        (lsn,) = source.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone() or (0,)
        body = encode(TEN | {"amount": str(total)})
        with store.write() as connection:
            number = connection.execute(tables.document.select()).all()[-1].version + 1
            connection.execute(
                tables.document.insert().values(
                    entity_id=store._ids["entity", "order"],
                    key="10",
                    version=number + 10,
                    event=1,
                    cause=0,
                    lsn=int(lsn),
                    transaction=1,
                    committed_at=1,
                    made_at=1,
                    body=body,
                )
            )

    assert Verifier(store, entity, connect, SESSION, sql_expression, traffic).run() == []


def test_a_hub_that_is_behind_cannot_be_verified(
    store: Store, source: psycopg.Connection[Any], database: str, entity: Entity
) -> None:
    """What `wait` says ends the comparison, and the connection with it."""

    def behind(position: int) -> None:
        raise OutsideError("The hub does not run.", "Start it.")

    connect = partial(psycopg.connect, database, autocommit=True)
    with pytest.raises(OutsideError, match="does not run"):
        Verifier(store, entity, connect, SESSION, sql_expression, behind).run()
