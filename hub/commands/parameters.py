"""What options take: moments, WAL positions, rates. And how moments are printed."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from hub.changes import parse_lsn

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def rfc3339(time: int) -> str:
    """`2024-01-02T03:04:05.123456Z`, of microseconds since 1970."""
    return (_EPOCH + timedelta(microseconds=time)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_moment(text: str, now: datetime) -> datetime:
    """`2024-01-02T03:04:05+01:00`, UTC when no offset is given; `2024-01-02`; or `90s`, `15m`, `2h`, `3d` ago.

    ValueError when it is none of these.
    """
    ago = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if ago:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Moment(click.ParamType[int]):
    """Microseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else micros(parse_moment(value, datetime.now(UTC)))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time. Write 2024-01-02T03:04:05Z, 2024-01-02, or 15m for 15 minutes ago.")


class Lsn(click.ParamType[int]):
    name = "lsn"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_lsn(value)
        except ValueError:
            self.fail(f"{value!r} is no WAL position. Write it as Postgres does: 0/16B3748.")


class Rate(click.ParamType[float]):
    """How many a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(\d*)([smh]))?", value.strip())
        seconds = int(found[2] or 1) * {"s": 1, "m": 60, "h": 3600}[found[3]] if found and found[3] else 1
        if not found or not float(found[1]) or not seconds:
            self.fail(f"{value!r} is no rate. Write 100/s, 100/10s or 50/m.")
        return float(found[1]) / seconds
