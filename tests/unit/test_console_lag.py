"""How late a stream is, from where its source's log was seen to end."""

from hub.console.sources import LEVEL, REMEMBERED, History

SECOND = 1_000_000
NOON = 1_700_000_000 * SECOND
MB = 1_000_000


def lag(history: History, end: int, position: int, at: int, stored_at: int = NOON) -> float:
    """`at`: seconds past noon."""
    return history.lag(end, position, stored_at, NOON + at * SECOND)


def test_a_stream_that_is_level_has_none() -> None:
    """However long ago it stored something: an idle server writes a little of its own."""
    history = History()

    assert lag(history, 5 * MB, 5 * MB, 0) == 0.0
    assert lag(history, 5 * MB + LEVEL, 5 * MB, 3600) == 0.0


def test_it_counts_from_when_the_log_was_first_seen_past_the_hub() -> None:
    """Not from when something was last stored: that was an hour before."""
    history = History()
    lag(history, 5 * MB, 5 * MB, 3600)

    assert lag(history, 6 * MB, 5 * MB, 3615) == 0.0
    assert lag(history, 7 * MB, 5 * MB, 3630) == 15.0
    assert lag(history, 7 * MB, 5 * MB, 3690) == 75.0


def test_a_hub_that_catches_up_is_as_late_as_the_log_that_it_reads() -> None:
    """It stores something all the time, and is behind all the same."""
    history = History()
    lag(history, 5 * MB, 5 * MB, 0)
    for minute in range(1, 11):
        lag(history, (5 + minute) * MB, 5 * MB, 60 * minute)

    assert lag(history, 15 * MB, 8 * MB, 601, stored_at=NOON + 601 * SECOND) == 601 - 4 * 60
    assert lag(history, 15 * MB, 14 * MB, 602, stored_at=NOON + 602 * SECOND) == 602 - 10 * 60
    assert lag(history, 15 * MB, 15 * MB, 603) == 0.0


def test_the_first_look_goes_by_when_something_was_last_stored() -> None:
    """A console that starts with a hub that was down for an hour."""
    assert lag(History(), 6 * MB, 5 * MB, 3600) == 3600.0
    assert lag(History(), 6 * MB, 5 * MB, 3600, stored_at=0) == 0.0
    assert lag(History(), 6 * MB, 5 * MB, 0, stored_at=NOON + 60 * SECOND) == 0.0


def test_a_long_lag_does_not_fill_the_memory_and_stays_exact() -> None:
    """The oldest is kept, others are thinned out."""
    history = History()
    lag(history, 5 * MB, 5 * MB, 0)
    for second in range(1, 10 * REMEMBERED):
        assert lag(history, (5 + second) * MB, 5 * MB, second) == second - 1

    assert len(history._seen) <= REMEMBERED
