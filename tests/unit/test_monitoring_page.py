"""docs/monitoring.md, the example alerts and the metrics say the same."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from ruamel.yaml import YAML

from hub.console.counts import LATENCIES, Counts, Latency
from hub.console.metrics import Picture, Scrape
from hub.delivery import OutcomeKind
from hub.documents import Cause
from hub.operate.status import (
    DestinationStatus,
    FanOutStatus,
    LogEnd,
    Status,
    StreamStatus,
    SubscriptionStatus,
)
from hub.project import Destination, EntityConfig, Project, SubscriptionConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/monitoring.md").read_text("utf-8")
EXAMPLES = ROOT / "examples/prometheus"
SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


def scrape() -> dict[str, Metric]:
    """By the name that is asked for: every metric, of a hub that has something of everything."""
    log = LogEnd(2000, "active", "reserved", kept=500, room=900)
    stream = StreamStatus("main/main", "streaming", 1500, "", NOW, log, (), (FanOutStatus(7, 1, 3),), "pid 1")
    status = Status(
        streams=(stream,),
        subscriptions=(SubscriptionStatus("crm", "active", "", 2, NOW - 5 * SECOND, 1),),
        destinations=(DestinationStatus("crm", NOW - 9 * SECOND, "refused"),),
        made_at=NOW,
        dispatch="pid 2",
    )
    counts = Counts(
        Counter({("crm", OutcomeKind.DELIVERED): 3}),
        Counter({"crm": 4 * SECOND}),
        {"crm": Latency([1] * (len(LATENCIES) + 1), 9.0)},
        Counter({("order", Cause.ROW): 4}),
    )
    project = Project(
        "shop",
        ROOT,
        {},
        {"order": EntityConfig("order", "main", "public.orders")},
        {"crm": Destination("crm", "file")},
        {"crm": SubscriptionConfig("crm", "order", "crm")},
        "sqlite:///nowhere",
    )
    found = Scrape(project, Picture("1.2.3", NOW, status, {"main/main": 4.0}, counts)).collect()
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found}


METRICS = scrape()


def row(name: str, metric: Metric) -> tuple[str, str, str, str]:
    """As the page's table has it."""
    labels = {label for sample in metric.samples for label in sample.labels if label != "le"}
    return name, metric.type, ", ".join(sorted(labels)), metric.documentation


def test_the_page_is_the_metrics() -> None:
    """Each with its type, its labels and its help, and no other."""
    written = re.findall(r"^\| `(hub_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", PAGE, re.MULTILINE)

    assert sorted(written) == sorted(row(name, metric) for name, metric in METRICS.items())


def test_every_metric_has_samples_here() -> None:
    """So that its labels are known to the test above."""
    assert [name for name, metric in METRICS.items() if not metric.samples] == []


def test_names_have_their_base_unit() -> None:
    """Seconds and bytes, at the end; counters end in _total, and nothing else does."""
    unusual = r"_(ms|milliseconds|minutes|kb|mb|kilobytes|megabytes)(_|$)"

    assert [name for name in METRICS if not re.fullmatch(r"hub_[a-z_]+", name) or re.search(unusual, name)] == []
    assert [name for name, metric in METRICS.items() if name.endswith("_total") != (metric.type == "counter")] == []


def test_what_is_asked_for_exists() -> None:
    """In the alerts, and in the page's own queries."""
    asked = {name for rule in rules() for name in re.findall(r"\bhub_\w+", rule["expr"])}
    asked |= {name for block in re.findall(r"^```promql\n(.*?)^```", PAGE, re.M | re.S) for name in names(block)}
    parts = {f"{name}{part}" for name, metric in METRICS.items() for part in _parts(metric)}

    assert len(asked) > 12
    assert asked - parts == set()


def names(block: str) -> list[str]:
    return re.findall(r"\bhub_\w+", block)


def _parts(metric: Metric) -> tuple[str, ...]:
    return {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}.get(metric.type, ("",))


def test_alerts_ask_for_labels_and_values_that_exist() -> None:
    """A selector that fits nothing would never fire."""
    for rule in rules():
        for name, selector in re.findall(r"\b(hub_\w+)\{(.*?)\}", rule["expr"]):
            samples = METRICS[name].samples
            for label, sign, value in re.findall(r'(\w+)(=~|=)"(.*?)"', selector):
                wanted = value.split("|") if sign == "=~" else [value]
                assert set(wanted) <= {sample.labels.get(label) for sample in samples}, (rule["alert"], label)


def test_every_alert_says_what_to_do() -> None:
    """And is named on the page, with a severity."""
    for rule in rules():
        assert {"summary", "remedy"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert f"`{rule['alert']}`" in PAGE
    assert set(re.findall(r"`(Hub[A-Z]\w+)`", PAGE)) == {rule["alert"] for rule in rules()}


def test_prometheus_is_told_of_the_alerts() -> None:
    """The two example files fit each other."""
    settings = YAML(typ="safe").load(EXAMPLES / "prometheus.yaml")

    assert [(EXAMPLES / file).exists() for file in settings["rule_files"]] == [True]
    assert [job["job_name"] for job in settings["scrape_configs"]] == ["hub"]


def rules() -> list[dict[str, Any]]:
    (group,) = YAML(typ="safe").load(EXAMPLES / "alerts.yaml")["groups"]
    return list(group["rules"])
