"""Two versions differ in concrete paths, list elements paired by key."""

import random
from copy import deepcopy
from typing import Any

import pytest

from hub.catalogue import Kind
from hub.documents import Embed, Field, Shape, decode
from hub.subscriptions.diff import any_selected, changed_paths, diff, parse_path

TAX = Shape(
    {"order": Field(Kind.INTEGER), "code": Field(Kind.TEXT), "rate": Field(Kind.NUMERIC)}, key=("order", "code")
)
LINE = Shape(
    {"id": Field(Kind.INTEGER), "quantity": Field(Kind.INTEGER)}, {"taxes": Embed(TAX, many=True)}, key=("id",)
)
NOTE = Shape({"text": Field(Kind.TEXT)})
CUSTOMER = Shape({"id": Field(Kind.INTEGER), "email": Field(Kind.TEXT)}, key=("id",))
ORDER = Shape(
    {"status": Field(Kind.TEXT), "data": Field(Kind.JSON), "tags": Field(Kind.TEXT, array=True)},
    {
        "customer": Embed(CUSTOMER, many=False),
        "lines": Embed(LINE, many=True),
        "notes": Embed(NOTE, many=True),
    },
)


def line(key: int, quantity: int = 1, taxes: list[Any] | None = None) -> dict[str, Any]:
    return {"id": key, "quantity": quantity, "taxes": taxes or []}


CASES: list[tuple[Any, Any, list[str]]] = [
    ({"status": "a"}, {"status": "a"}, []),
    ({"status": "a"}, {"status": "b"}, ["status"]),
    ({"status": None}, {}, []),
    ({"customer": {"id": 1, "email": "x"}}, {"customer": {"id": 2, "email": "x"}}, ["customer.id"]),
    ({"customer": None}, {"customer": {"id": 2}}, ["customer"]),
    ({"lines": [line(3)]}, {"lines": [line(3, 2)]}, ["lines[3].quantity"]),
    ({"lines": [line(3)]}, {"lines": [line(1), line(3)]}, ["lines[1]"]),
    ({"lines": [line(1), line(3)]}, {"lines": [line(3)]}, ["lines[1]"]),
    ({"lines": [line(1), line(3)]}, {"lines": [line(3), line(1)]}, ["lines"]),
    (
        {"lines": [line(1, 1, [{"order": 1, "code": "FR", "rate": "5"}])]},
        {"lines": [line(1, 1, [{"order": 1, "code": "FR", "rate": "5.0"}])]},
        ['lines[1].taxes[1,"FR"].rate'],
    ),
    ({"lines": [line(1), line(1)]}, {"lines": [line(1)]}, ["lines[1]"]),
    ({"notes": [{"text": "a"}, {"text": "b"}]}, {"notes": [{"text": "b"}]}, ["notes[0].text", "notes[1]"]),
    ({"data": {"a": [1]}}, {"data": {"a": [2]}}, ["data"]),
    ({"data": True}, {"data": 1}, ["data"]),
    ({"data": decode(b"[1]")}, {"data": decode(b"[1.0]")}, ["data"]),
    ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, ["tags"]),
    ({"gone": 1}, {"new": 2}, ["new", "gone"]),
]


@pytest.mark.parametrize(("before", "after", "paths"), CASES)
def test_paths(before: Any, after: Any, paths: list[str]) -> None:
    """Every difference has one path, and what is the same has none."""

    assert changed_paths(before, after, ORDER) == paths


SELECTED: list[tuple[str, Any, Any, bool]] = [
    ("lines[*].quantity", {"lines": [line(3)]}, {"lines": [line(3, 2)]}, True),
    ("lines[*].quantity", {"lines": []}, {"lines": [line(3)]}, True),
    ("lines[*].id", {"lines": [line(3)]}, {"lines": [line(3, 2)]}, False),
    ("lines[*].quantity", {"lines": [line(1), line(2)]}, {"lines": [line(2), line(1)]}, False),
    ("lines", {"lines": [line(1), line(2)]}, {"lines": [line(2), line(1)]}, True),
    ("lines", {"lines": [line(3)]}, {"lines": [line(3, 2)]}, True),
    ("lines[3]", {"lines": [line(3)]}, {"lines": [line(3, 2)]}, True),
    ("lines[4]", {"lines": [line(3)]}, {"lines": [line(3, 2)]}, False),
    ("customer.email", {"customer": None}, {"customer": {"id": 1}}, True),
    ("data.deep", {"data": {"deep": 1}}, {"data": {"deep": 2}}, True),
    ("status", {"data": 1}, {"data": 2}, False),
]


@pytest.mark.parametrize(("pattern", "before", "after", "selected"), SELECTED)
def test_patterns_select_paths(pattern: str, before: Any, after: Any, selected: bool) -> None:
    """A pattern selects a change at its path, below it, and of a whole that it is part of."""

    assert any_selected([parse_path(pattern)], diff(before, after, ORDER)) is selected


@pytest.mark.parametrize("text", ["", ".", "a..b", "a[", "a]b[", "a[]", "[*]"])
def test_what_is_no_path(text: str) -> None:
    """A path begins with a field, and its brackets hold something."""

    with pytest.raises(ValueError, match="not a path"):
        parse_path(text)


def document(random_: random.Random) -> dict[str, Any]:
    keys = random_.sample(range(5), random_.randrange(4))
    return {
        "status": random_.choice(["a", "b"]),
        "data": random_.choice([None, 1, True, {"a": 1}]),
        "customer": random_.choice([None, {"id": random_.randrange(2), "email": "x"}]),
        "lines": [line(key, random_.randrange(2)) for key in keys],
    }


@pytest.mark.parametrize("seed", range(200))
def test_no_path_means_equal(seed: int) -> None:
    """Two random documents have no path between them exactly when they are the same."""

    random_ = random.Random(seed)
    before = document(random_)
    after = deepcopy(before) if random_.random() < 0.3 else document(random_)
    assert (changed_paths(before, after, ORDER) == []) is (repr(before) == repr(after))
