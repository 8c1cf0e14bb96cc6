"""The demo's verdict can fail: what is missing, surplus or different is found."""

from typing import Any

from examples.conference.accounts import Delivery, Version, expected, newest, percentile
from examples.conference.proof import differences


def order(version: int, document: Any, cause: str = "row", key: str = "7") -> Version:
    return Version("order", key, version, cause, 500 + version, 1_000_000 * version, document)


def sold(total: str = "120.00", status: str = "paid") -> dict[str, str]:
    return {"status": status, "total": total}


def attendee(version: int, **document: Any) -> Version:
    whole = {"newsletter": True, "name": "Ada", "email": "a@example.org", "interests": [], "company": None} | document
    return Version("attendee", "1", version, "row", 900 + version, 0, whole)


def for_consumer(consumer: str, *journal: Version) -> list[tuple[int, str]]:
    return [(one.version, one.event) for one in sorted(expected(journal)) if one.consumer == consumer]


def test_entering_and_leaving_the_set_are_created_and_deleted() -> None:
    """An order that is paid enters the CRM's set, one that is cancelled leaves it."""
    journal = [order(1, sold(status="placed")), order(2, sold()), order(3, sold("130.00")), order(4, sold("99.99"))]

    assert for_consumer("crm", *journal) == [(2, "created"), (3, "updated"), (4, "deleted")]


def test_the_first_snapshot_is_for_the_archive_alone() -> None:
    """A subscription gets the initial load only where it asks for it, and knows afterwards what was in it."""
    journal = [order(1, sold(), cause="snapshot"), order(2, None)]

    assert for_consumer("crm", *journal) == [(2, "deleted")]
    assert for_consumer("archive", *journal) == [(1, "created"), (2, "deleted")]


def test_an_update_that_nobody_watches_is_not_expected() -> None:
    """The mailing list hears of new interests, and not of a birthday."""
    journal = [attendee(1), attendee(2, born_on="1990-01-01"), attendee(3, interests=["data"])]

    assert for_consumer("mailing", *journal) == [(1, "created"), (3, "updated")]


def test_the_newest_version_is_what_is_compared() -> None:
    """Versions may be read in any order."""
    assert newest([order(3, None), order(1, sold())]) == {("order", "7"): None}


def test_differences_name_the_field() -> None:
    """A value that differs, a document too many and one too few are a sentence each."""
    found = {("order", "1"): {"total": "1.00"}, ("order", "2"): {"total": "2.00"}, ("order", "3"): None}
    wanted = {("order", "1"): {"total": "1.50"}, ("order", "4"): {"total": "4.00"}}

    assert differences(found, wanted) == [
        "order 1 differs in total: '1.00', and SQL says '1.50'.",
        "order 2 has a document and is not in the source.",
        "order 4 is in the source and has no document.",
    ]


def test_percentile_is_the_nearest_rank() -> None:
    """Half of 1 to 100 lies below 51; nothing has a percentile of 0."""
    assert (percentile(range(1, 101), 0.5), percentile(range(1, 101), 0.99), percentile([], 0.5)) == (51, 100, 0.0)


def test_deliveries_print_as_a_sentence_part() -> None:
    """Faults name entity, key, version, event and consumer."""
    assert str(Delivery("crm", "order", "7", 2, "created")) == "order 7 version 2 (created) for crm"
