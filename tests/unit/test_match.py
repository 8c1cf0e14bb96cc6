"""Patterns select documents by the types of their columns."""

import random
from decimal import Decimal
from typing import Any

import pytest

from hub.catalogue import Kind
from hub.documents import Embed, Field, Shape, decode
from hub.subscriptions.match import compile_match, explain, problems

PRODUCT = Shape({"sku": Field(Kind.TEXT), "kind": Field(Kind.TEXT)}, key=("sku",))
LINE = Shape(
    {"id": Field(Kind.INTEGER), "quantity": Field(Kind.INTEGER), "price": Field(Kind.NUMERIC)},
    {"product": Embed(PRODUCT, many=False)},
    key=("id",),
)
CUSTOMER = Shape({"email": Field(Kind.CITEXT), "country": Field(Kind.TEXT)})
ORDER = Shape(
    {
        "id": Field(Kind.INTEGER),
        "status": Field(Kind.TEXT),
        "total": Field(Kind.NUMERIC),
        "weight": Field(Kind.FLOAT),
        "fee": Field(Kind.MONEY),
        "paid": Field(Kind.BOOLEAN),
        "day": Field(Kind.DATE),
        "at": Field(Kind.TIMESTAMPTZ),
        "local": Field(Kind.TIMESTAMP),
        "clock": Field(Kind.TIME),
        "zclock": Field(Kind.TIMETZ),
        "span": Field(Kind.INTERVAL),
        "labels": Field(Kind.TEXT, array=True),
        "data": Field(Kind.JSON),
        "attrs": Field(Kind.HSTORE),
    },
    {"customer": Embed(CUSTOMER, many=False), "lines": Embed(LINE, many=True)},
    key=("id",),
)
DOCUMENT = decode(
    b"""{"id": 42, "status": "paid", "total": "100.50", "weight": 1.5, "fee": "-3.00", "paid": true,
    "day": "2024-02-29", "at": "2024-01-02T03:04:05.12Z", "local": "2024-01-02T03:04:05", "clock": "13:45:00",
    "zclock": "23:30:00Z", "span": "P1DT2H", "labels": ["a", "b", null],
    "data": {"n": 1.0, "s": "1", "b": true, "z": null, "list": [{"x": 1}, {"x": 2, "y": 3}]},
    "attrs": {"color": "red", "size": null},
    "customer": {"email": "Ann@Example.com", "country": "FR"},
    "lines": [{"id": 1, "quantity": 1, "price": "9.90", "product": {"sku": "T1", "kind": "ticket"}},
              {"id": 2, "quantity": 5, "price": "1.00", "product": {"sku": "M1", "kind": "mug"}},
              {"id": 3, "quantity": 7, "price": null, "product": null}]}"""
)

FITTING: list[dict[str, Any]] = [
    {"status": "paid"},
    {"status": ["open", "paid"], "customer.country": ["FR", "BE"]},
    {"status": {"prefix": "pa", "suffix": "id"}},
    {"status": {"matches": "p?i*"}},
    {"status": {"not": ["open", "shipped"]}},
    {"status": [{"prefix": "x"}, "paid"]},
    {"status": {">": "open", "<": "q"}},
    {"status": {"exists": True}},
    {"total": 100.5},
    {"total": "100.500"},
    {"total": Decimal("100.50")},
    {"total": [{">=": 100, "<": 101}]},
    {"total": {"<": float("inf")}},
    {"id": 42},
    {"weight": {">": 1, "<=": 1.5}},
    {"fee": {"<": 0}},
    {"paid": True},
    {"day": {">=": "2024-02-29", "<": "2024-03-01"}},
    {"day": {">": "-infinity", "<": "infinity"}},
    {"day": {">": "0044-03-15 BC"}},
    {"at": "2024-01-02T04:04:05.120+01:00"},
    {"at": {">": "2024-01-02", "<": "2024-01-02T03:04:06Z"}},
    {"local": {">=": "2024-01-02 03:04"}},
    {"clock": {"<": "24:00"}},
    {"zclock": "01:30+02"},
    {"span": ["PT26H"]},
    {"labels[*]": "b"},
    {"labels[*]": {"exists": False}},
    {"labels": {"exists": True}},
    {"data.n": 1},
    {"data.s": "1"},
    {"data.b": True},
    {"data": {"n": {">": 0}, "z": None, "absent": None}},
    {"data.list[*]": {"x": 2, "y": 3}},
    {"attrs.color": "red", "attrs.size": None},
    {"customer": {"email": "ANN@example.COM", "country": {"exists": True}}},
    {"customer.email": {"suffix": "@EXAMPLE.com"}},
    {"lines[*]": {"product.kind": ["mug"], "quantity": [{">": 1}]}},
    {"lines[*].product.kind": {"not": ["ticket", "mug"]}},
    {"lines[*].product": None},
    {"lines[*]": {"exists": True}},
    {"lines": {"exists": True}},
    {"not": [{"lines[*].product.kind": "book"}]},
    {"any_of": [{"status": "open"}, {"total": {">": 100}}], "id": 42},
]
FAILING: list[dict[str, Any]] = [
    {"status": "Paid"},
    {"status": {"not": ["paid"]}},
    {"status": "paid", "customer.country": "DE"},
    {"total": {">": "100.50"}},
    {"paid": False},
    {"data.s": 1},
    {"data.n": "1"},
    {"data.n": True},
    {"data.s": {">": 0}},
    {"data.list[*]": {"x": 1, "y": 3}},
    {"at": {"<": "2024-01-02T03:04:05.12Z"}},
    {"lines[*]": {"product.kind": "ticket", "quantity": {">": 1}}},
    {"not": [{"lines[*].product.kind": "mug"}]},
    {"lines[*].product.kind": "book"},
    {"customer": {"exists": False}},
    {"any_of": [{"status": "open"}, {"total": {">": 101}}]},
]


@pytest.mark.parametrize("pattern", FITTING, ids=str)
def test_fits(pattern: dict[str, Any]) -> None:
    """A document fits when every field fits, each compared by its column's type."""

    assert problems(pattern, ORDER) == []
    assert compile_match(pattern, ORDER)(DOCUMENT) is True
    assert explain(pattern, ORDER, DOCUMENT) == ""


@pytest.mark.parametrize("pattern", FAILING, ids=str)
def test_does_not_fit(pattern: dict[str, Any]) -> None:
    """A document that fails one condition is out, and the condition can be named."""

    assert problems(pattern, ORDER) == []
    assert compile_match(pattern, ORDER)(DOCUMENT) is False
    assert explain(pattern, ORDER, DOCUMENT).endswith(".")


@pytest.mark.parametrize(
    ("pattern", "path", "part"),
    [
        ({"stauts": "paid"}, "stauts", "Did you mean status?"),
        ({"customer.emial": "x"}, "customer.emial", "Did you mean email?"),
        ({"status": 5}, "status", "Put it in quotes."),
        ({"id": "5"}, "id", "compared with a number"),
        ({"total": ["x"]}, "total", '"x" never fits'),
        ({"paid": "true"}, "paid", "true or false"),
        ({"day": "2024-02-30"}, "day", "a date like"),
        ({"local": "2024-01-02T03:04:05Z"}, "local", "without zone"),
        ({"status": {"prefx": "p"}}, "status.prefx", "Did you mean prefix?"),
        ({"status": {"prefix": 5}}, "status.prefix", "takes a text"),
        ({"total": {"prefix": "1"}}, "total.prefix", "not a text column"),
        ({"status": {"exists": "yes"}}, "status.exists", "true or false"),
        ({"lines.quantity": 5}, "lines.quantity", "lines[*].quantity"),
        ({"labels": "a"}, "labels", "labels[*]"),
        ({"status[*]": "a"}, "status[*]", "leave [*] out"),
        ({"lines[3].quantity": 1}, "lines[3].quantity", "only [*]"),
        ({"customer": "x"}, "customer", "embedded row"),
        ({"status": []}, "status", "empty list"),
        ({"status..x": 1}, "status..x", "not a path"),
        ({"lines[*]": {"product": {"knd": "x"}}}, "lines[*].product.knd", "Did you mean kind?"),
        ({"paid": {">": False}}, "paid.>", "never fits"),
    ],
)
def test_problem(pattern: dict[str, Any], path: str, part: str) -> None:
    """What can never fit is reported with its path, and never fits."""

    found = problems(pattern, ORDER)
    assert [where for where, _ in found] == [path]
    assert part in found[0][1]
    assert compile_match(pattern, ORDER)(DOCUMENT) is False


def test_null_and_missing_are_the_same() -> None:
    """A field that is null, missing, or below a null is null."""

    for document in ({}, {"customer": None}, {"customer": {}}, {"customer": {"country": None}}):
        assert compile_match({"customer.country": None}, ORDER)(document)
        assert compile_match({"customer.country": {"exists": False}}, ORDER)(document)
        assert compile_match({"customer": {"country": {"not": ["FR"]}}}, ORDER)(document)
        assert not compile_match({"customer.country": {"<": "Z"}}, ORDER)(document)


def test_an_empty_list_has_no_fitting_element() -> None:
    """`[*]` of an empty list fits nothing, not even what null would fit."""

    assert not compile_match({"lines[*].quantity": None}, ORDER)({"lines": []})
    assert compile_match({"lines": {"exists": False}}, ORDER)({"lines": []})


def test_not_a_number_is_above_all() -> None:
    """NaN equals NaN and is greater than infinity, as in Postgres."""

    assert compile_match({"total": "NaN"}, ORDER)({"total": "NaN"})
    assert compile_match({"total": {">": "Infinity"}}, ORDER)({"total": "NaN"})
    assert compile_match({"weight": {"<": 0}}, ORDER)({"weight": "-Infinity"})


def test_numbers_are_exact() -> None:
    """A bigint and a long numeric are compared to the last digit."""

    assert compile_match({"id": {">": 9007199254740992}}, ORDER)(decode(b'{"id": 9007199254740993}'))
    limit = "0.1234567890123456789012345678901234567890"
    assert compile_match({"total": {">": limit}}, ORDER)({"total": limit + "1"})
    assert not compile_match({"total": {">": limit}}, ORDER)({"total": limit + "000"})


def test_a_document_without_declared_fields() -> None:
    """A derived entity's documents are compared by JSON type."""

    pattern = {"score": {">=": 10}, "customer.country": "FR", "parts[*]": {"kind": "a", "size": 1}}
    document = decode(b'{"score": 10.5, "customer": {"country": "FR"}, "parts": [{"kind": "a", "size": 1}]}')
    assert problems(pattern, Shape({})) == []
    assert compile_match(pattern, Shape({}))(document)
    assert not compile_match(pattern, Shape({}))({**document, "score": "10"})


def test_explain_names_the_condition() -> None:
    """The first failing condition is a sentence with the value that was found."""

    assert explain({"id": 42, "status": ["open", "new"]}, ORDER, DOCUMENT) == 'status is "paid", not "open" or "new".'
    assert explain({"total": {">": 200}}, ORDER, DOCUMENT) == 'total is "100.50", not > 200.'
    assert explain({"lines[*].quantity": 9}, ORDER, DOCUMENT) == (
        "None of the 3 elements of lines fits; of the first: lines[*].quantity is 1, not 9."
    )


def test_a_pattern_nested_too_deep_is_a_problem() -> None:
    """Depth is bounded, so that a hostile pattern is a plain error."""

    pattern: Any = "x"
    for _ in range(5000):
        pattern = [pattern]
    assert "levels deep" in problems({"status": pattern}, ORDER)[0][1]


@pytest.mark.parametrize("seed", range(200))
def test_against_an_oracle(seed: int) -> None:
    """Random conditions on lines give what any() and all() of Python say."""

    random_ = random.Random(seed)
    lines = [
        {"quantity": random_.choice([None, 0, 1, 2]), "price": random_.choice([None, "0.0", "1.00", "2"])}
        for _ in range(random_.randrange(4))
    ]
    quantities, limit = random_.sample([None, 0, 1, 2], 2), random_.choice(["0", "1.0"])
    negated = random_.random() < 0.5
    condition: Any = {"not": quantities} if negated else quantities

    def fits(line: dict[str, Any]) -> bool:
        above = line["price"] is not None and Decimal(line["price"]) > Decimal(limit)
        return ((line["quantity"] in quantities) is not negated) and above

    together = {"lines[*]": {"quantity": condition, "price": {">": limit}}}
    assert compile_match(together, ORDER)({"lines": lines}) is any(map(fits, lines))
    assert compile_match({"not": [together]}, ORDER)({"lines": lines}) is not any(map(fits, lines))
