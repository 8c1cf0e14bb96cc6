"""The two ways to run, for tests that hold in both: nothing by default, Kafka Connect and topics while `followed_by`.

What differs stands here and nowhere else: what hub.yaml says of the source, and what is done once outside of the hub.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import httpx

SECONDS = 60.0  # for Kafka Connect to do one thing


@dataclass(frozen=True)
class Kafka:
    """A broker and a Kafka Connect. A stream's topic and connector are named after its slot."""

    bootstrap: str  # host:port
    connect: str  # the URL of its REST interface
    secrets: Path  # a folder of files that a connector's settings may refer to

    def source(self, slot: str) -> dict[str, str]:
        """The source's `kafka:` in hub.yaml."""
        return {"bootstrap": self.bootstrap, "connect": self.connect, "topic": f"hub.{slot}"}

    def keep(self, slot: str, password: str) -> str:
        """Put the source's password where Kafka Connect finds it; what refers to it."""
        self.secrets.mkdir(exist_ok=True)
        (self.secrets / slot).write_text(password, "utf-8")
        return f"${{dir:{self.secrets}:{slot}}}"

    def forget(self, slot: str) -> None:
        """Take the connectors away. Their slots are free on return, so that they can go with their database."""
        with httpx.Client(base_url=self.connect, timeout=SECONDS, trust_env=False) as client:
            for name in client.get("/connectors").raise_for_status().json():
                if name.startswith(f"hub-{slot}-main-"):
                    _delete(client, f"/connectors/{name}")


def _delete(client: httpx.Client, connector: str) -> None:
    client.put(f"{connector}/stop").raise_for_status()
    end = time.monotonic() + SECONDS
    while client.get(f"{connector}/status").json()["tasks"]:
        assert time.monotonic() < end, f"{connector} does not stop"
        time.sleep(0.1)
    client.delete(connector).raise_for_status()


_kafka: ContextVar[Kafka | None] = ContextVar("kafka", default=None)


def kafka() -> Kafka | None:
    """That follows the sources of the test that runs; None: each capture has an engine of its own."""
    return _kafka.get()


@contextmanager
def followed_by(place: Kafka) -> Iterator[None]:
    token = _kafka.set(place)
    try:
        yield
    finally:
        _kafka.reset(token)
