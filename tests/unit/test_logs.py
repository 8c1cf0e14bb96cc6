"""What of the log reaches who reads it."""

import logging

from hub.logs import SELDOM, KeyedFormatter, Seldom


def record(name: str, line: int) -> logging.LogRecord:
    try:
        raise ConnectionResetError(104, "Connection reset by peer")
    except ConnectionResetError as error:
        seen = (type(error), error, error.__traceback__)
    return logging.LogRecord(name, logging.ERROR, f"{name}.py", line, "Connection %s", ("lost",), seen)


def test_kafkas_client_says_each_thing_once_in_a_while_and_without_a_traceback() -> None:
    now = [0.0]
    seldom = Seldom(lambda: now[0])

    told = [(at, line) for at in (0.0, 1.0, SELDOM) for line in (7, 8) if _passes(seldom, now, at, line)]

    assert told == [(0.0, 7), (0.0, 8), (SELDOM, 7), (SELDOM, 8)]
    shown = record("kafka.net", 9)
    assert seldom.filter(shown)
    assert KeyedFormatter("capture").format(shown).endswith("capture ERROR Connection lost")


def _passes(seldom: Seldom, now: list[float], at: float, line: int) -> bool:
    now[0] = at
    return seldom.filter(record("kafka.net", line))


def test_what_the_hub_says_is_always_said() -> None:
    seldom = Seldom(lambda: 0.0)

    assert all(seldom.filter(record(name, 7)) for name in ("hub.capture", "hub.capture", "kafkaesque"))
    assert record("hub.capture", 7).exc_info
