"""Derived entities as an operator sees them: no source is asked for them, and nothing else is different."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.store import tables
from tests.acceptance.test_deliveries_command import Hub
from tests.receiver import Receiver

pytestmark = pytest.mark.acceptance

ANSWER = {
    "forward": [{"entity": "lead_score", "key": "42", "data": {"points": 9}}],
    "reschedule": {"after": "1h", "reason": "quota"},
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    for name, text in {
        "destinations/crm.yaml": "destination: crm\nconnector: http\nurl: http://127.0.0.1:9/\n"
        "answers: [reschedule, forward]\n",
        "destinations/archive.yaml": "destination: archive\nconnector: file\npath: scores.jsonl\n",
        "entities/lead_score.yaml": "entity: lead_score\nderived: true\nfrom: [crm]\n",
        "subscriptions/scores.yaml": "subscription: scores\nentity: lead_score\nto: archive\n"
        "match: {points: [{'>': 5}]}\n",
    }.items():
        (tmp_path / name).write_text(text)
    yield hub
    hub.store.close()


def test_what_a_receiver_forwarded_is_shown_sent_and_explained(hub: Hub, tmp_path: Path) -> None:
    """From the order's delivery to the score and back, with replay and backfill like any other document's."""
    bench = hub.bench
    bench.derive("lead_score", "crm")
    with Receiver(tmp_path) as receiver:
        bench.subscribe("crm", {"url": receiver.url}, answers=("reschedule", "forward"))
        bench.subscribe("scores", {"path": str(tmp_path / "scores.jsonl")}, entity="lead_score")
        receiver.behave(body=json.dumps(ANSWER))
        bench.commit("1")
        bench.run()

    assert hub("check", "--offline").returncode == 0
    assert [one["document"] for one in hub.json("documents", "list", "lead_score")] == [{"points": 9}]
    by = hub.json("trace", "lead_score", "42")[0]["forwarded_by"]
    (delivery,) = hub.json("trace", "order", "1")[0]["deliveries"]
    assert (by["id"], by["subscription"], by["key"]) == (delivery["id"], "crm", "1")
    assert delivery["forwarded"] == [{"entity": "lead_score", "key": "42", "version": 1}]
    assert (delivery["state"], delivery["reason"]) == ("rescheduled", "quota")
    assert f"forwarded by crm, in answer to order 1 version 1  {by['id']}" in hub("trace", "lead_score", "42").stdout
    assert "forwarded lead_score 42 version 1" in hub("trace", "order", "1").stdout
    assert "entered the set" in hub("explain", "lead_score", "42").stdout

    assert hub("replay", "--entity", "lead_score", "--key", "42", "--yes").returncode == 0
    assert hub("backfill", "scores", "--yes").returncode == 0
    assert [row.version for row in bench.rows(tables.delivery) if row.state == 0] == [1]

    refused = hub("verify", "lead_score")
    assert (refused.returncode, "no table to hold them against" in refused.stderr) == (2, True)
    assert "lead_score: left out" in hub("verify").stderr
    assert [one["key"] for one in hub.json("deliveries", "list", "--state", "rescheduled")] == ["1"]
    assert "still exists" in hub("documents", "erase", "lead_score", "42", "--yes").stderr
