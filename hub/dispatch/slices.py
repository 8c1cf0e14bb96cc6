"""How several dispatch workers share the destinations.

The documents of each destination fall into SLICES slices, by a hash of their key. Each slice is one worker's, so that a
document's versions go out one after the other, whoever sends them. A destination's slices are handed out in parts, at
most as many as it takes attempts at once: each part brings its share of the destination's limits with it.
"""

from collections.abc import Iterable, Mapping, Set

SLICES = 32

Slice = tuple[str, int]  # destination and number


def parts_of(concurrency: int) -> list[frozenset[int]]:
    """The parts that a destination's slices are handed out in; the one of an index has `concurrency_of` it."""
    count = min(concurrency, SLICES)
    return [frozenset(range(part, SLICES, count)) for part in range(count)]


def concurrency_of(slices: Set[int], concurrency: int) -> int:
    """How many of a destination's `concurrency` attempts at once are those of the holder of `slices`."""
    parts = parts_of(concurrency)
    most, more = divmod(concurrency, len(parts))
    held = sum(most + (index < more) for index, part in enumerate(parts) if part <= slices)
    return held or min(1, len(slices))


def assign(workers: Mapping[int, Mapping[str, int]], owners: Mapping[Slice, int]) -> dict[Slice, int]:
    """Which worker each slice should belong to.

    `workers`: by id, the destinations that it knows, with how many attempts at once they take; `owners`: as it is. Each
    destination's parts are spread evenly over the workers that know it, and what is left over evenly over all; what can
    stay where it is stays. A pure function of what the store says, so that all workers come to the same.
    """
    wanted: dict[Slice, int] = {}
    turn = 0
    for name in sorted({name for known in workers.values() for name in known}):
        able = sorted(id for id, known in workers.items() if name in known)
        parts = parts_of(min(workers[id][name] for id in able))
        quotas = _quotas(able, len(parts), turn)
        turn += len(parts) % len(able)
        for part, worker in zip(parts, _spread(name, parts, owners, quotas), strict=True):
            wanted.update({(name, number): worker for number in part})
    return wanted


def _quotas(able: list[int], parts: int, turn: int) -> dict[int, int]:
    """How many parts each gets; who gets one more begins at `turn`."""
    each, more = divmod(parts, len(able))
    return {id: each + ((index - turn) % len(able) < more) for index, id in enumerate(able)}


def _spread(
    name: str, parts: Iterable[frozenset[int]], owners: Mapping[Slice, int], quotas: dict[int, int]
) -> list[int]:
    """The worker of each part; those that have an owner within its quota keep it."""
    left = dict(quotas)
    kept: list[int | None] = []
    for part in parts:
        owner = owners.get((name, min(part)))
        if owner is not None and left.get(owner, 0) > 0:
            left[owner] -= 1
        else:
            owner = None
        kept.append(owner)
    free = (id for id, count in sorted(left.items()) for _ in range(count))
    return [next(free) if owner is None else owner for owner in kept]
