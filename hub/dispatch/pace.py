"""How fast a destination takes attempts: a token bucket."""

from hub.dispatch.outcomes import SECOND


class Pace:
    """At most `count` attempts in any burst, refilled evenly: (100, 10.0) gives one each 0.1 s on."""

    def __init__(self, rate: tuple[int, float] | None, now: int) -> None:
        self._count, seconds = rate or (1, 0.0)
        self._whole = seconds * SECOND / self._count  # microseconds for one token of the whole rate; 0: no limit
        self._spacing = self._whole
        self._burst = float(self._count)
        self._full_at = float(now)  # when the bucket is full again

    def take_part(self, part: float, now: int) -> None:
        """Have this part of the rate from now on, 0 to 1, and no more tokens than there were: others have the rest."""
        tokens = self._burst - max(0.0, self._full_at - now) / self._spacing if self._spacing else 0.0
        self._spacing = self._whole / max(part, 1e-6)
        self._burst = max(1.0, self._count * part)
        self._full_at = now + (self._burst - min(tokens, self._count * part)) * self._spacing

    def wait(self, now: int) -> int:
        """Microseconds until a token is there; 0: now."""
        return max(0, round(self._full_at - now - self._spacing * (self._burst - 1)))

    def take(self, now: int) -> None:
        self._full_at = max(self._full_at, float(now)) + self._spacing
