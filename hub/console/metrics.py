"""What one scrape tells, as Prometheus has it. Names and labels are a contract: docs/monitoring.md has each of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from hub.console.counts import LATENCIES, Counts, Latency
from hub.delivery import OutcomeKind
from hub.documents import Cause
from hub.operate.status import NOT_STARTED, Status, StreamStatus
from hub.project import Project

STREAM_STATES = (NOT_STARTED, "snapshot", "streaming", "resnapshot")
SLOT_STATES = ("reserved", "extended", "unreserved", "lost", "missing")
SUBSCRIPTION_STATES = ("active", "paused", "disabled")
JOURNAL_CAUSES = (Cause.ROW, Cause.SNAPSHOT, Cause.RESYNC)

Sample = tuple[Sequence[str], float]  # the labels' values, and the value


@dataclass(frozen=True, slots=True)
class Picture:
    """All that one scrape tells."""

    version: str  # of the hub
    read_at: int  # microseconds since 1970
    status: Status
    lags: Mapping[str, float]  # by stream: seconds; a stream whose lag is not known is left out
    counts: Counts


class Scrape(Collector):
    """A picture as metrics, made at once: the counts go on rising meanwhile."""

    def __init__(self, project: Project, picture: Picture) -> None:
        self._metrics = list(_metrics(project, picture))

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def _metrics(project: Project, picture: Picture) -> Iterator[Metric]:
    """Every one each time, with samples or without."""
    yield from _hub(picture)
    yield from _streams(picture)
    yield from _slots(picture.status.streams)
    yield from _subscriptions(project, picture)
    yield from _destinations(picture)
    yield from _flow(project, picture.counts)


def _hub(picture: Picture) -> Iterator[Metric]:
    status = picture.status
    roles = [(("capture", one.name), float(bool(one.owner))) for one in status.streams]
    roles.append((("dispatch", ""), float(bool(status.dispatch))))
    yield _gauge("hub_build_info", "The version that runs; always 1.", ["version"], [([picture.version], 1)])
    yield _gauge(
        "hub_read_timestamp_seconds",
        "When these figures were read. Older than a few scrapes: the store answers slowly, look at its machine.",
        [],
        [([], picture.read_at / 1e6)],
    )
    yield _gauge(
        "hub_role_up",
        "1 while a process holds the role's lock. 0 for longer than a restart: start hub run, and read its log.",
        ["role", "stream"],
        roles,
    )
    yield _gauge(
        "hub_problems",
        "Sentences at the end of hub status. Above 0: run hub status, it names each one and its remedy.",
        [],
        [([], len(status.problems()))],
    )
    yield _gauge(
        "hub_last_version_timestamp_seconds",
        "When the newest document version was made. Old while the application is busy: look for what stands still.",
        [],
        [([], status.made_at / 1e6)] if status.made_at else [],
    )


def _streams(picture: Picture) -> Iterator[Metric]:
    streams = picture.status.streams
    yield _gauge(
        "hub_stream_up",
        "1 while the stream is followed. 0: no change is stored; hub status says why, and the source keeps its log.",
        ["stream"],
        [([one.name], float(not one.standstill)) for one in streams],
    )
    yield _gauge(
        "hub_stream_state",
        "1 for the state that the stream is in. A snapshot that does not end: look at the capture's log.",
        ["stream", "state"],
        [(labels, value) for one in streams for labels, value in _states(one.name, one.state, STREAM_STATES)],
    )
    yield _gauge(
        "hub_stream_source_up",
        "1 when the source answered just now. 0: hub doctor looks closer; its lag and slot are not known meanwhile.",
        ["stream"],
        [([one.name], float(not one.log.unreachable)) for one in streams],
    )
    yield _gauge(
        "hub_stream_lag_bytes",
        "Bytes of the source's log that the hub has not stored yet. Rising: it is down, or slower than the source.",
        ["stream"],
        [([one.name], one.lag) for one in streams if one.position and one.lag is not None],
    )
    yield _gauge(
        "hub_stream_lag_seconds",
        "How long ago the source's log stood where the hub is now; 0 when there is nothing to catch up with. "
        "Up to 15 s is usual where the source is busy with other tables.",
        ["stream"],
        [([name], seconds) for name, seconds in picture.lags.items()],
    )
    yield _gauge(
        "hub_stream_drifted_tables",
        "Tables whose columns were changed. Above 0: hub status names them; mend the entity, then take a new snapshot.",
        ["stream"],
        [([one.name], len(one.drift)) for one in streams],
    )
    yield _gauge(
        "hub_stream_fan_outs",
        "Commits that reach many documents and are still worked off in pieces. It should come back to 0 by itself.",
        ["stream"],
        [([one.name], len(one.fan_outs)) for one in streams],
    )
    yield _gauge(
        "hub_stream_fan_out_items",
        "What those commits still have to go through; an item may stand for many documents. Falling: it goes on.",
        ["stream"],
        [([one.name], sum(fan_out.items for fan_out in one.fan_outs)) for one in streams],
    )


def _slots(streams: Iterable[StreamStatus]) -> Iterator[Metric]:
    known = [one for one in streams if not one.log.unreachable and one.state != NOT_STARTED]
    yield _gauge(
        "hub_stream_slot_active",
        "1 while somebody reads from the replication slot. 0 for long: no capture runs, and the source keeps its log.",
        ["stream"],
        [([one.name], float(one.log.slot == "active")) for one in known],
    )
    yield _gauge(
        "hub_stream_slot_wal_status",
        "1 for how the slot stands (pg_replication_slots). unreserved: let the hub catch up now; lost or missing: "
        "hub source resnapshot.",
        ["stream", "status"],
        [
            (labels, value)
            for one in known
            for labels, value in _states(one.name, one.log.wal_status or one.log.slot, SLOT_STATES)
        ],
    )
    yield _gauge(
        "hub_stream_slot_kept_bytes",
        "Log that the source's disk holds back for the hub. Rising: the hub is down or late, and the disk may fill.",
        ["stream"],
        [([one.name], one.log.kept) for one in known if one.log.kept is not None],
    )
    yield _gauge(
        "hub_stream_slot_room_bytes",
        "Log that may still be written until the slot is lost (max_slot_wal_keep_size); absent without such a bound.",
        ["stream"],
        [([one.name], one.log.room) for one in known if one.log.room is not None],
    )


def _subscriptions(project: Project, picture: Picture) -> Iterator[Metric]:
    subscriptions = picture.status.subscriptions
    configs = project.subscriptions
    yield _gauge(
        "hub_subscription_info",
        "What a subscription is about, to join with; always 1.",
        ["subscription", "entity", "destination"],
        [([one.name, configs[one.name].entity, configs[one.name].to], 1) for one in subscriptions],
    )
    yield _gauge(
        "hub_subscription_active",
        "0: nothing of it is sent, because it is paused or disabled; hub resume lets it go on.",
        ["subscription"],
        [([one.name], float(one.state == "active")) for one in subscriptions],
    )
    yield _gauge(
        "hub_subscription_state",
        "1 for the state that it is in. paused: by an operator; disabled: its receiver answered 410, ask its owner.",
        ["subscription", "state"],
        [
            (labels, value)
            for one in subscriptions
            for labels, value in _states(one.name, one.state, SUBSCRIPTION_STATES)
        ],
    )
    yield _gauge(
        "hub_subscription_waiting",
        "Deliveries that wait. Rising: its destination is held, slow or limited, or dispatch does not run.",
        ["subscription"],
        [([one.name], one.waiting) for one in subscriptions],
    )
    yield _gauge(
        "hub_subscription_oldest_waiting_seconds",
        "Age of the delivery that waits longest; 0 when none does. It is how late the receiver may be.",
        ["subscription"],
        [([one.name], _age(one.oldest, picture.read_at)) for one in subscriptions],
    )
    yield _gauge(
        "hub_subscription_parked",
        "Deliveries that wait for a person. Above 0: hub deliveries list says why; mend it, then hub deliveries retry.",
        ["subscription"],
        [([one.name], one.parked) for one in subscriptions],
    )


def _destinations(picture: Picture) -> Iterator[Metric]:
    destinations = picture.status.destinations
    yield _gauge(
        "hub_destination_held",
        "1 while nothing is sent, because the receiver is down or lets nobody in. It is probed and goes on by itself.",
        ["destination"],
        [([one.name], float(bool(one.held_since))) for one in destinations],
    )
    yield _gauge(
        "hub_destination_held_seconds",
        "For how long it has been held; 0 when it is not. Long: tell its owner, or mend its address or secret.",
        ["destination"],
        [([one.name], _age(one.held_since, picture.read_at)) for one in destinations],
    )


def _flow(project: Project, counts: Counts) -> Iterator[Metric]:
    """Counters since this process began. What has not happened yet is 0, so that its first time is a rise."""
    attempts = CounterMetricFamily(
        "hub_attempts",
        "Tries of a delivery, by what they came to. Its rate by outcome shows which receiver refuses, and since when.",
        labels=["subscription", "outcome"],
    )
    possible = {(name, outcome): 0 for name in project.subscriptions for outcome in OutcomeKind}
    for (subscription, outcome), count in sorted((possible | counts.attempts).items()):
        attempts.add_metric([subscription, outcome.name.lower()], count)
    yield attempts

    durations = SummaryMetricFamily(
        "hub_attempt_duration_seconds",
        "How long attempts took, connecting and answer included. Sum by count is a receiver's mean time to answer.",
        labels=["subscription"],
    )
    for name in sorted({*project.subscriptions, *counts.durations}):
        sent = {key: count for key, count in counts.attempts.items() if key[1] is not OutcomeKind.UNCHANGED}
        tried = sum(count for (subscription, _), count in sent.items() if subscription == name)
        durations.add_metric([name], tried, counts.durations[name] / 1e6)
    yield durations

    latencies = HistogramMetricFamily(
        "hub_delivery_latency_seconds",
        "From the commit at the source to the receiver's acceptance; replays and the initial load are left out. "
        "High without a backlog: compare it with how long attempts take.",
        labels=["subscription"],
    )
    for name in sorted({*project.subscriptions, *counts.latencies}):
        latency = counts.latencies.get(name, Latency())
        edges = [*map(str, LATENCIES), "+Inf"]
        latencies.add_metric([name], list(zip(edges, accumulate(latency.buckets), strict=True)), latency.total)
    yield latencies

    versions = CounterMetricFamily(
        "hub_versions",
        "Document versions made, by cause: row is live traffic; snapshot and resync are loads. No rise: nothing comes.",
        labels=["entity", "cause"],
    )
    possible_versions = {(name, cause): 0 for name in project.entities for cause in JOURNAL_CAUSES}
    made = possible_versions | counts.versions
    for entity, cause in sorted(made, key=lambda one: (one[0], one[1].value)):
        versions.add_metric([entity, cause.value], made[entity, cause])
    yield versions


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _states(name: str, state: str, states: Iterable[str]) -> Iterator[Sample]:
    """1 for the state it is in, 0 for the others; one that is not known here has its own."""
    for each in dict.fromkeys((*states, state)):
        yield (name, each.replace(" ", "_")), float(each == state)


def _age(since: int, now: int) -> float:
    """Seconds since a moment; 0 when there is none."""
    return max(0, now - since) / 1e6 if since else 0.0
