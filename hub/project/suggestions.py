"""The second half of an error about an unknown name: what was probably meant."""

import difflib
from collections.abc import Iterable

LISTED = 12  # names; a longer list would bury the sentence


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`Did you mean 'status'?`, else the names there are, else how to go on without any."""
    names = sorted(choices)
    near = nearest(name, names)
    if near:
        return f"Did you mean {' or '.join(repr(one) for one in near)}?"
    if not names:
        return "There is none yet."
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"There is: {', '.join(names[:LISTED])}{more}."


def nearest(name: str, choices: Iterable[str]) -> list[str]:
    """At most two names that `name` may be a slip of, the likeliest first; case does not count."""
    folded = {choice.casefold(): choice for choice in choices}
    return [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=2, cutoff=0.6)]
