"""The oracle's own judgement: it says nothing of a journal that is right, and finds each way of being wrong."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.oracle.compare import LOST, History, judge, judge_end, same_text
from tests.oracle.journal import Version
from tests.oracle.schema import random_schema
from tests.oracle.writer import Commit

Journal = list[Version]
WRONG = "is not what SQL says"


def _history(*, truncated: bool = False) -> History:
    """One document there from the start, changed at transactions 11 and 13, gone at 14; another made at 12."""
    history = History()
    history.begin({"order": {"1": '{"n": 1}'}})
    history.record(Commit(11, truncated, ()), {"order": {"1": '{"n": 2}'}})
    history.record(Commit(12, False, ()), {"order": {"1": '{"n": 2.0}', "2": '{"x": null}'}})
    history.record(Commit(13, False, ()), {"order": {"1": '{"n": 3}', "2": '{"x": null}'}})
    history.record(Commit(14, False, ()), {"order": {"2": '{"x":null}'}})
    return history


def _version(key: str, number: int, event: str, transaction: int, body: str | None, **more: object) -> Version:
    made = Version("order", key, number, event, "row", 100 + transaction, transaction, (), body)
    return replace(made, **more)  # type: ignore[arg-type]


def _journal() -> Journal:
    return [
        _version("1", 1, "created", 0, '{"n":1}', cause="snapshot"),
        _version("1", 2, "updated", 11, '{"n":2}'),
        _version("2", 1, "created", 12, '{"x":null}'),
        _version("1", 3, "updated", 13, '{"n":3}'),
        _version("1", 4, "deleted", 14, None),
    ]


def _without(index: int) -> Callable[[Journal], Journal]:
    """One version left out, those after it numbered as if it had never been."""

    def lose(journal: Journal) -> Journal:
        lost = journal.pop(index)
        later = [v if v.key != lost.key else replace(v, version=v.version - 1) for v in journal[index:]]
        return journal[:index] + later

    return lose


def _with(index: int, **change: object) -> Callable[[Journal], Journal]:
    def alter(journal: Journal) -> Journal:
        journal[index] = replace(journal[index], **change)  # type: ignore[arg-type]
        return journal

    return alter


def test_a_right_journal_has_no_finding() -> None:
    """JSON may be written differently; 2 and 2.0 are one number, so transaction 12 left document 1 alone."""
    assert judge(_history(), _journal()) == []
    assert judge_end({"order": {"2": '{"x": null}'}}, _journal()) == []


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (_without(1), LOST),
        (_without(2), LOST),
        (_without(4), LOST),
        (_with(3, body='{"n":4}'), WRONG),
        (_with(3, body='{"n":"3"}'), WRONG),
        (_with(2, body='{"x":false}'), WRONG),
        (_with(2, body="{}"), WRONG),
        (_with(4, body="null"), WRONG),
        (_with(1, transaction=12), LOST),
        (_with(3, transaction=11), "one more version for a commit"),
        (_with(3, transaction=99), "unknown transactions"),
        (_with(3, merged=(11,)), "merges a commit that reaches few"),
        (_with(3, event="created"), "is called created"),
        (_with(4, version=5), "versions are numbered"),
        (lambda journal: [*journal, _version("2", 2, "updated", 14, '{"x":null}')], "does not differ"),
        (lambda journal: [*journal, _version("3", 1, "created", 14, "{}")], WRONG),
        (lambda journal: [*journal, _version("1", 5, "created", 14, "{}")], "one more version for a commit"),
    ],
)
def test_a_wrong_journal_has_its_finding(error: Callable[[Journal], Journal], what: str) -> None:
    """Lost, doubled, altered, late, early, misnamed: each is found and named."""
    found = judge(_history(), error(_journal()))

    assert any(what in finding.what for finding in found), found


def test_commits_that_merge_are_named_by_the_version_that_stands_for_both() -> None:
    """After a truncate a version may stand for later commits too, if it names them and is right at the newest."""
    history = _history(truncated=True)
    merged = _without(1)(_with(3, merged=(11,))(_journal()))
    unnamed = _without(1)(_journal())

    assert judge(history, merged) == []
    assert [finding.what for finding in judge(history, unnamed)] == [LOST]


def test_merged_commits_that_cancel_need_no_version() -> None:
    """A truncated table whose row comes back before its document was made again."""
    history = History()
    history.begin({"order": {"1": "{}"}})
    history.record(Commit(11, True, ()), {"order": {}})
    history.record(Commit(12, False, ()), {"order": {"1": "{}"}})

    assert judge(history, _journal_of("{}")) == []


def test_what_cancelled_before_a_version_needs_not_be_named_by_it() -> None:
    """Truncated and inserted again before it was made anew, then changed: only the last is this version's."""
    history = History()
    history.begin({"order": {"1": "{}"}})
    history.record(Commit(11, True, ()), {"order": {}})
    history.record(Commit(12, False, ()), {"order": {"1": "{}"}})
    history.record(Commit(13, False, ()), {"order": {"1": '{"n": 1}'}})
    named = [*_journal_of("{}"), _version("1", 2, "updated", 13, '{"n":1}')]

    assert judge(history, named) == []
    history.record(Commit(14, True, ()), {"order": {"1": '{"n": 2}'}})
    history.record(Commit(15, False, ()), {"order": {"1": '{"n": 3}'}})
    assert [finding.what for finding in judge(history, [*named, _version("1", 3, "updated", 15, '{"n":3}')])] == [LOST]


def _journal_of(body: str) -> Journal:
    return [_version("1", 1, "created", 0, body, cause="snapshot")]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1.00}', True),
        ("1e400", "1.0E+400", True),
        ("12345678901234567890.1", "12345678901234567890.2", False),
        ("true", "1", False),
        ('"1"', "1", False),
        ("[1,2]", "[2,1]", False),
        ("null", "{}", False),
        ("{}", None, False),
    ],
)
def test_documents_are_compared_as_json_values(one: str, other: str | None, equal: bool) -> None:
    """All digits count; types count; the order of keys does not."""
    assert equal == same_text(one, other)


def test_random_schemas_hold_every_shape() -> None:
    """Over the seeds: two to five tables, composite keys, a table inside itself, links, unique references."""
    schemas = [random_schema(seed) for seed in range(60)]
    tables = [table for schema in schemas for table in schema.tables]
    keys = [(table, key) for table in tables for key in table.foreign_keys]

    assert {2, 3, 4, 5} == {len(schema.tables) for schema in schemas}
    assert {1, 2} <= {len(table.primary_key) for table in tables}
    assert any(key.table == table.name for table, key in keys)
    assert any(table.link for table in tables)
    assert any(key.references != schema.table(key.table).primary_key for schema in schemas for t in schema.tables
               for key in t.foreign_keys)  # fmt: skip
    assert {"CASCADE", "SET NULL", "NO ACTION"} == {key.on_delete for _, key in keys}
    assert any(not key.enforced for _, key in keys)
    assert any(table.soft_delete for table in tables)
