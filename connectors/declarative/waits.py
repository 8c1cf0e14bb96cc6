"""How long a throttled connector leaves a system alone: seconds, a header's, or until a day ends somewhere."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from connectors.http import retry_after
from hub.project.yaml_fields import duration

MOMENT = 1e9  # from this number on a header's seconds are since 1970: a wait of thirty years is none


class Wait(msgspec.Struct, frozen=True):
    """Ways to tell a time; the first that tells one counts."""

    ways: tuple[tuple[str, str], ...]  # ("seconds", "10.0"), ("header", name), ("epoch", name), ("day", zone)

    def seconds(self, headers: Mapping[str, str], now: float) -> float | None:
        """From `now`, in seconds since 1970; None when no way tells it. Names in `headers` are in lower case."""
        for way, value in self.ways:
            told = _told(way, value, headers, now)
            if told is not None:
                return max(0.0, told)
        return None


def parse_wait(texts: Sequence[str]) -> Wait | None:
    """Of `10s`, `header retry-after` (seconds, a date, or seconds since 1970), `epoch x-reset` (seconds since 1970),
    `day Europe/Paris`.
    """
    ways = [_parsed(text) for text in texts]
    known = tuple(way for way in ways if way is not None)
    return Wait(known) if known and len(known) == len(ways) else None


def _parsed(text: str) -> tuple[str, str] | None:
    word, _, rest = text.partition(" ")
    if word in ("header", "epoch") and rest:
        return word, rest.strip().lower()
    if word == "day":
        try:
            ZoneInfo(rest.strip() or "UTC")
        except (KeyError, ValueError, OSError):
            return None
        return word, rest.strip() or "UTC"
    seconds = duration(text)
    return None if seconds is None else ("seconds", str(seconds))


def _told(way: str, value: str, headers: Mapping[str, str], now: float) -> float | None:
    match way:
        case "seconds":
            return float(value)
        case "header" | "epoch":
            told = retry_after(headers.get(value), now)
            return told - now if told is not None and (way == "epoch" or told >= MOMENT) else told
    return _to_midnight(ZoneInfo(value), now)


def _to_midnight(zone: ZoneInfo, now: float) -> float:
    """Seconds until the next day begins in `zone`."""
    here = datetime.fromtimestamp(now, zone)
    tomorrow = (here + timedelta(days=1)).date()
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).timestamp() - now
