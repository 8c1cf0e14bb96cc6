"""Log lines: a time, a fixed sentence, and stable keys, so that they can be searched and counted."""

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

SELDOM = 60.0  # seconds between two lines of one kind
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class KeyedFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z capture INFO snapshot complete stream=main/main lsn=0/16B3748`"""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        keys = "".join(f" {k}={_value(v)}" for k, v in vars(record).items() if k not in _STANDARD)
        line = f"{moment} {self._role} {record.levelname} {record.getMessage()}{keys}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Seldom(logging.Filter):
    """Kafka's client tells of each try to connect, some with a traceback: each of its sentences once in a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._again_at: dict[tuple[str, int], float] = {}  # by file and line

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("kafka."):
            return True
        now, place = self._clock(), (record.pathname, record.lineno)
        if now < self._again_at.get(place, 0.0):
            return False
        self._again_at[place] = now + SELDOM
        record.exc_info = None
        return True


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if not text or any(character in text for character in ' ="\n') else text


def configure(role: str) -> None:
    """Send this process's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyedFormatter(role))
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("alembic", "httpx", "kafka"):  # which tell of each request
        logging.getLogger(library).setLevel(logging.WARNING)
