"""How destinations are spread over dispatch workers."""

import random
from collections import Counter

from hub.dispatch.pace import Pace
from hub.dispatch.slices import SLICES, Slice, assign, concurrency_of, parts_of


def spread(wanted: dict[Slice, int], name: str, concurrency: int) -> list[int]:
    """How many parts of a destination each worker has, in order."""
    workers = [{wanted[name, number] for number in part} for part in parts_of(concurrency)]
    assert all(len(one) == 1 for one in workers), "a part is one worker's"
    return sorted(Counter(next(iter(one)) for one in workers).values())


def test_parts_are_all_slices_once() -> None:
    for concurrency in (1, 3, 8, 31, 32, 500):
        parts = parts_of(concurrency)
        assert sorted(number for part in parts for number in part) == list(range(SLICES))
        assert sum(concurrency_of(part, concurrency) for part in parts) == concurrency


def test_each_destination_is_spread_evenly() -> None:
    """Eight at once over three workers: 3, 3, 2; one at a time: one worker has it all."""
    workers = {id: {"crm": 8, "mail": 1} for id in (4, 7, 9)}

    wanted = assign(workers, {})

    assert spread(wanted, "crm", 8) == [2, 3, 3]
    assert spread(wanted, "mail", 1) == [1]
    assert len(wanted) == 2 * SLICES


def test_many_destinations_of_one_at_a_time_are_spread_over_the_workers() -> None:
    workers = {id: {f"d{number:02}": 1 for number in range(10)} for id in (1, 2, 3)}

    wanted = assign(workers, {})

    assert sorted(Counter(wanted[f"d{number:02}", 0] for number in range(10)).values()) == [3, 3, 4]


def test_who_does_not_know_a_destination_gets_nothing_of_it() -> None:
    wanted = assign({1: {"crm": 4}, 2: {"crm": 4, "mail": 4}}, {})

    assert {worker for (name, _), worker in wanted.items() if name == "mail"} == {2}


def test_what_can_stay_stays_and_the_rest_settles() -> None:
    """Workers come and go: each step moves no more than it has to, and once moved it stays as it is."""
    chance = random.Random(7)
    concurrencies = {"a": 1, "b": 3, "c": 8, "d": 40}
    workers = {1: concurrencies, 2: concurrencies}
    owners: dict[Slice, int] = {}
    for step in range(200):
        if len(workers) > 1 and chance.random() < 0.5:
            workers.pop(chance.choice(sorted(workers)))
        else:
            workers[3 + step] = concurrencies
        owners = {one: id for one, id in owners.items() if id in workers}

        wanted = assign(workers, owners)

        assert assign(workers, wanted) == wanted
        for name, concurrency in concurrencies.items():
            counts = spread(wanted, name, concurrency)
            assert counts[-1] - (counts[0] if len(counts) == len(workers) else 0) <= 1
        totals = Counter(
            wanted[name, min(part)] for name, at_once in concurrencies.items() for part in parts_of(at_once)
        )
        assert max(totals.values()) - min(totals[id] for id in workers) <= 1
        moved = sum(owners.get(one, id) != id for one, id in wanted.items())
        assert moved <= 4 * SLICES / len(workers) * 1.5 + SLICES
        owners = wanted


def passes(pace: Pace, start: int, seconds: int) -> int:
    """How many attempts it lets through."""
    now, count = start, 0
    while (now := now + pace.wait(now)) <= start + seconds * 1_000_000:
        pace.take(now)
        count += 1
    return count


def test_parts_of_a_rate_add_up_to_it() -> None:
    """Three workers that join share 10 a second; none of them brings a burst of its own."""
    paces = [Pace((100, 10.0), 0) for _ in range(3)]
    for pace, part in zip(paces, (12 / 32, 12 / 32, 8 / 32), strict=True):
        pace.take_part(0.0, 0)
        pace.take_part(part, 0)

    assert 98 <= sum(passes(pace, 0, 10) for pace in paces) <= 103


def test_a_whole_rate_keeps_its_burst_and_a_part_is_paid_for_by_it() -> None:
    pace = Pace((10, 10.0), 0)
    assert passes(pace, 0, 0) == 10
    pace = Pace((10, 10.0), 0)
    pace.take_part(0.5, 0)
    assert passes(pace, 0, 0) == 5
    assert passes(pace, 0, 10) == 5
    pace.take_part(1.0, 10_000_000)
    assert passes(pace, 10_000_000, 1) == 1
