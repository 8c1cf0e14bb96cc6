"""What the demo sees from outside: the archive that the file connector writes, and the receiver's own account."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from examples.conference.accounts import RULES, Delivery, event_for, from_body, from_event, microseconds

LOOK_SECONDS = 0.1  # the longest wait at the receiver before the archive is read again


@dataclass(frozen=True, slots=True)
class Archived:
    """One document version, as it came to the archive."""

    delivery: Delivery
    committed_at: int  # microseconds since 1970
    cause: str
    before: Any
    document: Any

    def calls_for(self) -> list[Delivery]:
        """What the partners at the receiver must get of this version."""
        what = self.delivery
        events = (
            (rule.consumer, event_for(rule, self.before, self.document))
            for rule in RULES
            if rule.entity == what.entity and rule.consumer != what.consumer
        )
        return [Delivery(consumer, what.entity, what.key, what.version, event) for consumer, event in events if event]


@dataclass(frozen=True, slots=True)
class Received:
    """The first arrival of a delivery."""

    webhook_id: str
    received_at: int  # microseconds since 1970, by the receiver's clock


class Watch:
    """Everything that has arrived so far; `look` brings it up to date."""

    def __init__(self, receiver: str, archive: Path) -> None:
        self.received: dict[Delivery, Received] = {}
        self.archived: list[Archived] = []
        self.duplicates: list[tuple[Delivery, str]] = []  # and their webhook-id
        self._client = httpx.Client(base_url=receiver, timeout=30)
        self._after = 0
        self._archive = archive
        self._offset = 0

    def close(self) -> None:
        self._client.close()

    def look(self, wait: float = 0.0) -> bool:
        """Take in what is new, waiting up to `wait` seconds for the receiver; whether there was anything."""
        arrivals = self._client.get("/arrivals", params={"after": self._after, "wait": wait}).raise_for_status().json()
        for arrival in arrivals:
            self._take(arrival)
        archived = list(self._read_archive())
        self.archived += archived
        return bool(arrivals or archived)

    def until(self, holds: Callable[[], bool], seconds: float, alive: Callable[[], None]) -> bool:
        """Look until `holds`; False when it does not within `seconds`. `alive` raises when waiting has no sense."""
        end = time.monotonic() + seconds
        self.look()
        while not holds():
            if time.monotonic() > end:
                return False
            alive()
            self.look(LOOK_SECONDS)
        return True

    def settle(self, quiet: float, seconds: float) -> None:
        """Look until nothing has arrived for `quiet` seconds, at most `seconds`."""
        end = time.monotonic() + seconds
        last = time.monotonic()
        while time.monotonic() < min(end, last + quiet):
            if self.look(min(quiet, LOOK_SECONDS)):
                last = time.monotonic()

    def _take(self, arrival: dict[str, Any]) -> None:
        self._after = arrival["number"]
        delivery = from_body(arrival["consumer"], arrival["body"])
        if arrival["duplicate"]:
            self.duplicates.append((delivery, arrival["webhook_id"]))
        else:
            self.received[delivery] = Received(arrival["webhook_id"], arrival["received_at"])

    def _read_archive(self) -> Iterator[Archived]:
        if not self._archive.exists():
            return
        with self._archive.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                yield _archived(json.loads(line)["body"])


def _archived(event: dict[str, Any]) -> Archived:
    """Of the CloudEvent that is the body of a line."""
    data = event["data"]
    delivery = from_event("archive", event)
    return Archived(delivery, microseconds(event["time"]), event["hubcause"], data["before"], data["document"])
