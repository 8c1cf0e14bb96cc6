"""The books of the demo: which deliveries the journal calls for, and which of them arrived.

The subscriptions' rules are said here a second time, in Python, so that the check does not lean on the hub's own
matching.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Version:
    """One version in the hub's journal."""

    entity: str
    key: str
    version: int
    cause: str  # snapshot, row …
    transaction: int  # its id at the source
    committed_at: int  # microseconds since 1970
    document: Any  # None when deleted


@dataclass(frozen=True, slots=True, order=True)
class Delivery:
    """One document version for one consumer: expected, or arrived."""

    consumer: str  # crm, mailing, website, archive
    entity: str
    key: str
    version: int
    event: str  # created, updated, deleted

    def __str__(self) -> str:
        return f"{self.entity} {self.key} version {self.version} ({self.event}) for {self.consumer}"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a consumer has asked for."""

    consumer: str
    entity: str
    wants: Callable[[Any], bool] = lambda document: True  # on a document: is it in the set?
    watches: Callable[[Any], Any] | None = None  # an update is sent only when this differs
    snapshot: bool = False  # the initial load too


def _sold(order: Any) -> bool:
    return order["status"] in ("paid", "shipped") and Decimal(order["total"]) >= 100


def _subscribed(attendee: Any) -> bool:
    return bool(attendee["newsletter"])


def _addressed(attendee: Any) -> Any:
    return attendee["name"], attendee["email"], attendee["interests"], (attendee["company"] or {}).get("name")


RULES = (
    Rule("crm", "order", wants=_sold),
    Rule("mailing", "attendee", wants=_subscribed, watches=_addressed),
    Rule("website", "session"),
    *(Rule("archive", entity, snapshot=True) for entity in ("order", "attendee", "session")),
)


def expected(journal: Iterable[Version], rules: Iterable[Rule] = RULES) -> set[Delivery]:
    """Every delivery that the journal calls for."""
    histories: dict[tuple[str, str], list[Version]] = defaultdict(list)
    for version in sorted(journal, key=lambda version: version.version):
        histories[version.entity, version.key].append(version)
    return {
        delivery
        for (entity, _), history in histories.items()
        for rule in rules
        if rule.entity == entity
        for delivery in _for_rule(rule, history)
    }


def _for_rule(rule: Rule, history: list[Version]) -> Iterable[Delivery]:
    before: Any = None
    for version in history:
        event = event_for(rule, before, version.document)
        if event and (version.cause != "snapshot" or rule.snapshot):
            yield Delivery(rule.consumer, version.entity, version.key, version.version, event)
        before = version.document


def event_for(rule: Rule, before: Any, after: Any) -> str:
    """What a change from one document to the next means to the consumer; "" when nothing is sent."""
    was = before is not None and rule.wants(before)
    is_in = after is not None and rule.wants(after)
    if was and is_in:
        return "updated" if rule.watches is None or rule.watches(before) != rule.watches(after) else ""
    return "created" if is_in else "deleted" if was else ""


def newest(journal: Iterable[Version]) -> dict[tuple[str, str], Any]:
    """Each document's newest version by entity and key; None where it was deleted."""
    in_order = sorted(journal, key=lambda version: version.version)
    return {(version.entity, version.key): version.document for version in in_order}


def from_event(consumer: str, event: Mapping[str, Any]) -> Delivery:
    """A CloudEvent as the hub makes them."""
    entity, _, kind = event["type"].rpartition(".")
    return Delivery(consumer, entity, event["subject"], event["hubversion"], kind)


def from_body(consumer: str, body: Mapping[str, Any]) -> Delivery:
    """What arrived at the receiver: a CloudEvent, or one of the project's own bodies."""
    if "specversion" in body:
        return from_event(consumer, body)
    entity = "order" if consumer == "crm" else "attendee"
    return Delivery(consumer, entity, str(body[entity]), body["version"], body["event"])


def microseconds(time: str) -> int:
    """Microseconds since 1970 of an ISO time with its zone."""
    return round(datetime.fromisoformat(time).timestamp() * 1_000_000)


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile; 0.5 is the median. 0.0 for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
