"""Log lines: a time, a fixed sentence, and stable keys, so that they can be searched and counted."""

import logging
import sys
from datetime import UTC, datetime

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


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if not text or any(character in text for character in ' ="\n') else text


def configure(role: str) -> None:
    """Send this process's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyedFormatter(role))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("alembic", "httpx", "kafka"):  # which tell of each request
        logging.getLogger(library).setLevel(logging.WARNING)
