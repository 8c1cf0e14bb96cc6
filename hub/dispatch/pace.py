"""How fast a destination takes attempts: a token bucket."""

from hub.dispatch.outcomes import SECOND


class Pace:
    """At most `count` attempts in any burst, refilled evenly: (100, 10.0) gives one each 0.1 s on."""

    def __init__(self, rate: tuple[int, float] | None, now: int) -> None:
        self._count, seconds = rate or (1, 0.0)
        self._spacing = seconds * SECOND / self._count  # microseconds for one token; 0: no limit
        self._full_at = float(now)  # when the bucket is full again

    def wait(self, now: int) -> int:
        """Microseconds until a token is there; 0: now."""
        return max(0, round(self._full_at - now - self._spacing * (self._count - 1)))

    def take(self, now: int) -> None:
        self._full_at = max(self._full_at, float(now)) + self._spacing
