"""Entities of every shape: what their documents look like, and which row changes make new versions of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.capture.capture import Capture
from hub.catalogue import Catalogue, Column, Kind, Table
from hub.changes import (
    Commit,
    Operation,
    RowChange,
    SchemaDrift,
    SnapshotCompleted,
    SnapshotRows,
    Transaction,
)
from hub.documents import decode
from hub.entities import compile_entity
from hub.project import Columns, EntityConfig, Relation
from hub.store import streams, tables
from hub.store.database import Store

Document = dict[str, Any] | None


def table(name: str, key: str, /, **columns: Kind) -> Table:
    made = tuple(Column(column, kind.value, kind.value, kind) for column, kind in columns.items())
    return Table(name, "r", "p", made, tuple(key.split()))


I, T, N, C = Kind.INTEGER, Kind.TEXT, Kind.NUMERIC, Kind.CITEXT  # noqa: E741
TABLES = (
    table("orders", "id country", id=I, country=T, ref=T, customer_id=I, amount=N, email=C, gone=T),
    table("lines", "id", id=I, order_id=I, country=T, qty=I, gone=T, product_id=I),
    table("products", "id", id=I, name=T),
    table("customers", "id", id=I, name=T),
    table("rates", "amount", amount=N, name=T),
    table("people", "email", email=C, name=T),
    table("order_tags", "order_id country tag_id", order_id=I, country=T, tag_id=I),
    table("tags", "id", id=I, name=T, parent_id=I, gone=T),
    table("values", "id", id=I, parent=I, f=Kind.FLOAT, d=Kind.DATE, at=Kind.TIMESTAMPTZ, span=Kind.INTERVAL,
          tod=Kind.TIMETZ, m=N, raw=Kind.BYTEA, s=T, ok=Kind.BOOLEAN),
)  # fmt: skip
CATALOGUE = Catalogue({t.name: t for t in TABLES}, 150000)
KEY = ("order_id", "country")


class Hub:
    """A capture of one entity, fed with changes."""

    def __init__(self, path: Path, fan_out: int = 1000) -> None:
        self.store = Store(f"sqlite:///{path}/hub.db", durable=False)
        tables.metadata.create_all(self.store.engine)
        self.number = 1
        self.fan_out = fan_out
        self.catalogue = CATALOGUE

    def entity(self, table: str, *relations: Relation, **options: Any) -> "Hub":
        self.config = EntityConfig("e", "main", table, relations=relations, **options)
        state = streams.begin_snapshot(self.store, "main/main", self.catalogue, {"e": {}})
        self.capture = Capture(self.store, state, [compile_entity(self.config, self.catalogue)], [], self.fan_out)
        return self

    def snapshot(self, *changes: RowChange) -> "Hub":
        self.number += 1
        self.capture.apply([SnapshotRows(changes), SnapshotCompleted(self._commit())])
        return self.settle()

    def commit(self, *changes: RowChange) -> "Hub":
        self.number += 1
        self.capture.apply([Transaction(self._commit(), changes)])
        return self.settle()

    def settle(self) -> "Hub":
        while self.capture.work():
            pass
        return self

    def _commit(self) -> Commit:
        return Commit(self.number * 10, self.number, 0)

    def made(self) -> dict[str, Document]:
        """By key, what the last commit made."""
        query = sa.select(tables.document).where(tables.document.c.transaction == self.number)
        with self.store.read() as connection:
            rows = connection.execute(query).all()
        return {row.key: None if row.body is None else decode(row.body) for row in rows}

    def document(self, key: str) -> Any:
        query = sa.select(tables.document.c.body).where(tables.document.c.key == key)
        with self.store.read() as connection:
            body = connection.execute(query.order_by(tables.document.c.version.desc()).limit(1)).scalar_one()
        return None if body is None else decode(body)


@pytest.fixture(params=[1000, 0], ids=["at once", "fan-out"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    """The same documents are made within their commit's transaction and by a fan-out."""
    hub = Hub(tmp_path, request.param)
    yield hub
    hub.store.close()


def whole(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A row of which nothing is left out."""
    return {column.name: values.get(column.name) for column in CATALOGUE.tables[name].columns}


def put(name: str, /, **values: Any) -> RowChange:
    return RowChange(name, Operation.INSERT, whole(name, values))


def change(name: str, /, **values: Any) -> RowChange:
    """What is not given is as it was."""
    return RowChange(name, Operation.UPDATE, values)


def remove(name: str, /, **key: Any) -> RowChange:
    return RowChange(name, Operation.DELETE, key)


def order(**values: Any) -> RowChange:
    return put("orders", **{"id": 12, "country": "FR", **values})


def lines(**options: Any) -> Relation:
    return Relation("lines", "has_many", "lines", KEY, **options)


def ids(rows: Sequence[dict[str, Any]]) -> list[Any]:
    return [row["id"] for row in rows]


def test_a_composite_key_is_a_json_array(hub: Hub) -> None:
    """Its children are joined by all of it."""
    hub.entity("orders", lines())
    hub.commit(order(), order(country="BE"), put("lines", id=1, order_id=12, country="BE"))
    assert sorted(hub.made()) == ['[12,"BE"]', '[12,"FR"]']
    assert ids(hub.document('[12,"BE"]')["lines"]) == [1]
    assert hub.document('[12,"FR"]')["lines"] == []
    hub.commit(change("lines", id=1, country="FR"))
    assert {key: ids(made["lines"]) for key, made in hub.made().items() if made} == {
        '[12,"BE"]': [],
        '[12,"FR"]': [1],
    }


def test_a_key_may_be_any_unique_column(hub: Hub) -> None:
    """When it changes, one document is deleted and another created, though the row is the same one."""
    hub.entity("orders", lines(), key=("ref",)).commit(order(ref="a"), put("lines", id=1, order_id=12, country="FR"))
    assert list(hub.made()) == ["a"]
    hub.commit(change("orders", id=12, country="FR", ref="b"))
    made = hub.made()
    assert made["a"] is None
    assert made["b"] and ids(made["b"]["lines"]) == [1]
    hub.commit(change("lines", id=1, qty=5))
    assert list(hub.made()) == ["b"]
    hub.commit(remove("orders", id=12, country="FR"))
    assert hub.made() == {"b": None}


def test_two_rows_may_swap_their_keys(hub: Hub) -> None:
    """Within one transaction: both documents have a new version, neither is deleted."""
    hub.entity("orders", key=("ref",)).commit(order(ref="a"), order(id=13, ref="b"))
    hub.commit(
        change("orders", id=12, country="FR", ref="x"),
        change("orders", id=13, country="FR", ref="a"),
        change("orders", id=12, country="FR", ref="b"),
    )
    assert {key: made and made["id"] for key, made in hub.made().items()} in (
        {"a": 13, "b": 12},
        {"a": 13, "b": 12, "x": None},
    )
    assert "x" not in hub.made()


def test_a_primary_key_that_changes_deletes_and_creates(hub: Hub) -> None:
    """The row's unsent TOAST values go with it."""
    hub.entity("orders").commit(order(ref="kept"))
    hub.commit(
        remove("orders", id=12, country="FR"), RowChange("orders", Operation.INSERT, {"id": 14, "country": "FR"})
    )
    made = hub.made()
    assert made['[12,"FR"]'] is None
    assert made['[14,"FR"]'] and made['[14,"FR"]']["ref"] == "kept"


def test_numbers_are_joined_by_value_whatever_their_scale(hub: Hub) -> None:
    """1.50 refers to 1.5; a fraction of 30 digits is not rounded to its neighbour."""
    hub.entity("orders", Relation("rate", "belongs_to", "rates", ("amount",)))
    near = "0.123456789012345678901234567890"
    hub.commit(
        order(amount="1.50"),
        order(id=13, amount=near + "1"),
        put("rates", amount="1.5", name="a"),
        put("rates", amount=near + "2", name="b"),
    )
    assert hub.document('[12,"FR"]')["rate"] == {"amount": "1.5", "name": "a"}
    assert hub.document('[13,"FR"]')["rate"] is None
    hub.commit(change("rates", amount="1.5", name="c"))
    assert list(hub.made()) == ['[12,"FR"]']


def test_citext_is_joined_whatever_its_case(hub: Hub) -> None:
    """From either side."""
    hub.entity("orders", Relation("person", "belongs_to", "people", ("email",)))
    hub.commit(order(email="Ann@x.fr"), put("people", email="ann@X.fr", name="Ann"))
    assert hub.document('[12,"FR"]')["person"]["name"] == "Ann"
    hub.commit(change("people", email="ann@X.fr", name="Anne"))
    assert list(hub.made()) == ['[12,"FR"]']


def test_null_refers_to_nothing(hub: Hub) -> None:
    """Not even to another null; a composite key with one null in it neither."""
    hub.entity("orders", lines(), Relation("customer", "belongs_to", "customers", ("customer_id",)))
    hub.commit(order(), put("lines", id=1, order_id=12), put("customers", id=1))
    assert hub.document('[12,"FR"]')["lines"] == []
    assert hub.document('[12,"FR"]')["customer"] is None
    hub.commit(change("lines", id=1, qty=2))
    assert hub.made() == {}


def test_many_to_many_follows_both_tables(hub: Hub) -> None:
    """A new link, a link that goes, and the related row's own change; a related row that is missing is left out."""
    tags = Relation("tags", "many_to_many", "tags", KEY, through="order_tags", related_key=("tag_id",),
                    soft_delete="gone", columns=Columns(include=("id", "name")))  # fmt: skip
    hub.entity("orders", tags).commit(
        order(), put("tags", id=2, name="b"), put("tags", id=1, name="a"),
        *(put("order_tags", order_id=12, country="FR", tag_id=id) for id in (2, 1, 9)),
    )  # fmt: skip
    key = '[12,"FR"]'
    assert hub.document(key)["tags"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    hub.commit(change("tags", id=2, name="c"))
    assert hub.document(key)["tags"][1]["name"] == "c"
    hub.commit(remove("order_tags", order_id=12, country="FR", tag_id=1))
    assert ids(hub.document(key)["tags"]) == [2]
    hub.commit(change("tags", id=1, name="no longer linked"))
    assert hub.made() == {}
    hub.commit(change("tags", id=2, gone="yes"))
    assert hub.document(key)["tags"] == []
    hub.commit(change("tags", id=2, gone=None))
    assert ids(hub.document(key)["tags"]) == [2]


def test_what_is_not_refreshed_is_taken_up_with_the_next_version(hub: Hub) -> None:
    """Neither its own change nor one below it makes a version."""
    product = Relation("product", "belongs_to", "products", ("product_id",))
    hub.entity("orders", lines(refresh=False, relations=(product,)))
    hub.commit(order(), put("lines", id=1, order_id=12, country="FR", product_id=1), put("products", id=1, name="old"))
    hub.commit(change("products", id=1, name="new"))
    hub.commit(put("lines", id=2, order_id=12, country="FR"))
    assert hub.made() == {}
    hub.commit(change("orders", id=12, country="FR", ref="x"))
    found = hub.document('[12,"FR"]')
    assert ids(found["lines"]) == [1, 2]
    assert found["lines"][0]["product"]["name"] == "new"


def test_a_soft_deleted_row_counts_as_absent(hub: Hub) -> None:
    """At the root it deletes the document, and brings it back; at a child it takes the element out."""
    hub.entity("orders", lines(soft_delete="gone"), soft_delete="gone")
    hub.commit(order(), put("lines", id=1, order_id=12, country="FR"))
    key = '[12,"FR"]'
    hub.commit(change("lines", id=1, gone="yes"))
    assert hub.document(key)["lines"] == []
    hub.commit(change("lines", id=1, gone=None))
    assert ids(hub.document(key)["lines"]) == [1]
    hub.commit(change("orders", id=12, country="FR", gone="yes"))
    assert hub.made() == {key: None}
    hub.commit(change("lines", id=1, qty=2))
    assert hub.made() == {}
    hub.commit(change("orders", id=12, country="FR", gone=None))
    assert hub.document(key)["lines"][0]["qty"] == 2
    hub.commit(order(id=15, gone="yes"))
    assert hub.made() == {}


def test_has_one_takes_the_first_in_its_order(hub: Hub) -> None:
    """Nulls last; when the first goes the second takes its place."""
    hub.entity("orders", Relation("first", "has_one", "lines", KEY, order_by=("qty",)))
    hub.commit(order(), *(put("lines", id=id, order_id=12, country="FR", qty=qty)
                          for id, qty in ((1, None), (2, 7), (3, 5))))  # fmt: skip
    assert hub.document('[12,"FR"]')["first"]["id"] == 3
    hub.commit(remove("lines", id=3))
    assert hub.document('[12,"FR"]')["first"]["id"] == 2
    hub.commit(remove("lines", id=2))
    assert hub.document('[12,"FR"]')["first"]["id"] == 1
    hub.commit(remove("lines", id=1))
    assert hub.document('[12,"FR"]')["first"] is None


def test_a_table_may_be_inside_itself(hub: Hub) -> None:
    """To the depth written, from above and from below."""
    below = Relation("below", "has_many", "tags", ("parent_id",), relations=(
        Relation("below", "has_many", "tags", ("parent_id",)),))  # fmt: skip
    hub.entity("tags", Relation("parent", "belongs_to", "tags", ("parent_id",)), below)
    hub.commit(put("tags", id=1), put("tags", id=2, parent_id=1), put("tags", id=3, parent_id=2))
    hub.commit(put("tags", id=4, parent_id=3))
    assert sorted(hub.made()) == ["2", "3", "4"]
    hub.commit(change("tags", id=3, parent_id=3))
    assert sorted(hub.made()) == ["1", "2", "3", "4"]
    assert hub.document("3")["parent"]["id"] == 3
    assert ids(hub.document("3")["below"]) == [3, 4]


def test_columns_are_left_out_and_renamed_at_every_level(hub: Hub) -> None:
    """A column that only joins, orders or marks deletion is not in the document, and its change is none."""
    hub.entity(
        "orders",
        lines(columns=Columns(include=("qty",), rename={"qty": "pieces"}), order_by=("product_id",)),
        columns=Columns(exclude=("amount", "email", "gone"), rename={"ref": "reference"}),
    )
    hub.commit(
        order(ref="r"),
        put("lines", id=1, order_id=12, country="FR", qty=3, product_id=2),
        put("lines", id=2, order_id=12, country="FR", qty=4, product_id=1),
    )
    assert hub.document('[12,"FR"]') == {
        "id": 12,
        "country": "FR",
        "reference": "r",
        "customer_id": None,
        "lines": [{"pieces": 4}, {"pieces": 3}],
    }
    hub.commit(change("lines", id=1, product_id=3))
    assert hub.made() == {}


@pytest.mark.parametrize(
    "column, ordered",
    [
        ("f", ["-Infinity", -1.5, 0, 10, "Infinity", "NaN"]),
        ("m", ["-Infinity", "-10.5", "2", "10.0", "NaN"]),
        ("d", ["-infinity", "0044-03-15 BC", "0099-01-01", "2024-01-02", "10000-01-01", "infinity"]),
        ("at", ["-infinity", "2024-01-02T03:04:05Z", "2024-01-02T03:04:05.5Z", "infinity"]),
        ("tod", ["01:00:00Z", "01:00:00.5Z", "12:00:00Z"]),
        ("span", ["P-1D", "PT1H", "PT25H", "P1M", "P1Y"]),
        ("raw", ["AA==", "AAE=", "/w=="]),
        ("s", ["A", "B", "a", "é"]),
        ("ok", [False, True]),
    ],
)
def test_lists_stand_in_their_columns_order(tmp_path: Path, column: str, ordered: list[Any]) -> None:
    """As the type compares, nulls last, then by key."""
    hub = Hub(tmp_path).entity("orders", Relation("v", "has_many", "values", ("parent",), references=("id",),
                                                  order_by=(column,)))  # fmt: skip
    values = [*ordered, None, None]
    rows = [put("values", id=100 - n, parent=12, **{column: value}) for n, value in enumerate(values)]
    hub.commit(order(), *rows)
    found = [element[column] for element in hub.document('[12,"FR"]')["v"]]
    assert [str(value) for value in found] == [str(value) for value in values]
    assert ids(hub.document('[12,"FR"]')["v"])[-2:] == sorted([100 - len(ordered), 100 - len(ordered) - 1])
    hub.store.close()


def test_a_row_that_comes_again_after_a_truncate_is_found_again(hub: Hub) -> None:
    """All within one transaction: what was there before it, what it inserted itself, and what never came back."""
    hub.entity("orders", lines()).commit(order(), put("lines", id=1, order_id=12, country="FR"))
    hub.commit(
        put("lines", id=2, order_id=12, country="FR"),
        put("lines", id=3, order_id=12, country="FR"),
        RowChange("lines", Operation.TRUNCATE, {}),
        put("lines", id=1, order_id=12, country="FR"),
        put("lines", id=2, order_id=12, country="FR"),
    )
    assert ids(hub.document('[12,"FR"]')["lines"]) == [1, 2]
    hub.commit(change("lines", id=2, qty=4))
    assert hub.document('[12,"FR"]')["lines"][1]["qty"] == 4


def test_a_row_that_comes_goes_and_comes_again_while_its_truncate_is_worked_off(hub: Hub) -> None:
    """What the truncate left of it in the store is not taken for the row that has just been deleted."""
    hub.entity("orders", lines()).commit(order(), put("lines", id=1, order_id=12, country="FR"))
    again = [put("lines", id=1, order_id=12, country="FR", qty=qty) for qty in (5, 6)]
    several = [[RowChange("lines", Operation.TRUNCATE, {})], [again[0]], [remove("lines", id=1), again[1]]]
    arrivals = []
    for changes in several:
        hub.number += 1
        arrivals.append(Transaction(hub._commit(), changes))
    hub.capture.apply(arrivals)
    if hub.fan_out:
        assert [line["qty"] for line in hub.document('[12,"FR"]')["lines"]] == [6]
    assert [line["qty"] for line in hub.settle().document('[12,"FR"]')["lines"]] == [6]


def test_truncating_the_root_deletes_every_document(hub: Hub) -> None:
    """Soft-deleted ones had none; one that is inserted in the same transaction lives on."""
    hub.entity("orders", soft_delete="gone").commit(order(), order(id=13), order(id=14, gone="yes"))
    hub.commit(RowChange("orders", Operation.TRUNCATE, {}), order(id=13, ref="new"))
    assert {key: made and made["ref"] for key, made in hub.made().items()} == {'[12,"FR"]': None, '[13,"FR"]': "new"}


def test_a_table_that_lost_a_column_holds_its_documents_until_the_next_snapshot(hub: Hub) -> None:
    """Even where the column was its key; then rows that an older snapshot left are compared with the new columns."""
    hub.entity("orders", lines(columns=Columns(include=("id",)))).snapshot(
        order(), put("lines", id=1, order_id=12, country="FR")
    )
    hub.capture.apply([SchemaDrift("lines", ("id",), ())])
    hub.commit(RowChange("lines", Operation.UPDATE, {"order_id": 12, "country": "FR"}), order(ref="held"))
    assert hub.made() == {}
    product = Relation("product", "belongs_to", "products", ("product_id",))
    hub.entity("orders", lines(relations=(product,))).snapshot(
        order(ref="held"), put("lines", id=1, order_id=12, country="FR", product_id=3), put("products", id=3)
    )
    made = hub.made()['[12,"FR"]']
    assert made and (made["ref"], made["lines"][0]["product"]["id"]) == ("held", 3)
