"""The console as `hub run` has it: beside the other roles, and never in their way."""

import http.client
import json
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.legacy_shop import Shop, execute, open_shop
from tests.conftest import MakeStore
from tests.integration.serving import Served
from tests.oracle.command import HUB, Project, Run

pytestmark = pytest.mark.acceptance


@pytest.fixture
def slot() -> str:
    return f"console_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """An address that somebody listens on, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def settle(project: Project, source: str, slot: str, listen: str, **console: str) -> None:
    """hub.yaml with its console at `listen`."""
    settings = {
        "hub": "shop",
        "sources": {"main": {"url": source, "slot": slot}},
        "store": project.store,
        "console": {"listen": listen, **console},
    }
    project.write({"hub.yaml": json.dumps(settings)})


def console_of(run: Run) -> Served:
    """Where its log says that the console listens."""
    run.until(lambda: "console listens" in run.said(10_000), "the console listens")
    found = re.findall(r"console listens url=http://127\.0\.0\.1:(\d+)", run.said(10_000))
    return Served(int(found[-1]))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_console_of_a_run(kind: str, database: str, slot: str, tmp_path: Path, make_store: MakeStore) -> None:
    """Ready once the roles run; it counts what they do; what it says of the stream is so; all of it ends well."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot)
    project = Project(shop.project.directory, make_store(kind))
    settle(project, database, slot, "127.0.0.1:0")
    with project.running() as run:
        console = console_of(run)
        run.until(lambda: console.get("/readyz").status == 200, "the console is ready")
        run.until(lambda: "snapshot complete" in run.said(10_000), "the snapshot is complete")
        run.until(lambda: console.scrape()["hub_versions_total", "snapshot", "order"] == 2, "its documents are made")
        execute(database, *(f"UPDATE orders SET status = 'paid {n}' WHERE id = 1" for n in range(3)))
        delivered = ("hub_attempts_total", "delivered", "orders")
        run.until(lambda: console.scrape()[delivered] == 3, "three updates are delivered")
        slot_active = ("hub_stream_slot_active", "main/main")
        run.until(lambda: console.scrape().get(slot_active) == 1, "the source has been asked again")
        found = console.scrape()
        assert found["hub_versions_total", "row", "order"] == 3
        assert found["hub_delivery_latency_seconds_count", "orders"] == 3
        assert 0 < found["hub_delivery_latency_seconds_sum", "orders"] < 60
        assert found["hub_stream_state", "streaming", "main/main"] == 1
        assert found["hub_stream_up", "main/main"] == 1
        assert found["hub_stream_slot_wal_status", "reserved", "main/main"] == 1
        assert {found["hub_role_up", *role] for role in (("capture", "main/main"), ("dispatch", ""))} == {1}
        run.until(lambda: console.scrape()["hub_stream_lag_seconds", "main/main"] == 0, "the stream is level")
    assert "Traceback" not in run.said(10_000)
    with pytest.raises(ConnectionRefusedError):
        console.get("/healthz")


def test_an_address_that_is_taken_holds_nothing_back(
    database: str, slot: str, tmp_path: Path, taken: socket.socket
) -> None:
    """Changes are delivered, one sentence says whose the address should be, and the console comes once it is free."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot)
    port = taken.getsockname()[1]
    settle(shop.project, database, slot, f"127.0.0.1:{port}")
    with shop.project.running() as run:
        said = (
            f"hub: The console cannot listen on 127.0.0.1:{port}: Address already in use. Give this hub another address"
        )
        run.until(lambda: said in run.said(10_000), "the console says that the address is in use")
        run.until(lambda: "snapshot complete" in run.said(10_000), "the snapshot is complete")
        execute(database, "UPDATE orders SET status = 'paid' WHERE id = 1")
        run.until(shop.got(status="paid"), "the update is delivered")
        assert run.role("capture") is not None and run.role("dispatch") is not None
        taken.close()
        assert console_of(run).get("/healthz").status == 200
    assert "Traceback" not in run.said(10_000)


def test_nothing_is_served_to_a_run_that_ends_when_idle(database: str, slot: str, tmp_path: Path) -> None:
    """There is no console then, and its address does not matter."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot)

    assert "console" not in shop.says("run", "--until-idle", ends_with=0)


@contextmanager
def alone(project: Project) -> Iterator[tuple[subprocess.Popen[str], Served]]:
    """`hub run --role console`, and where it listens."""
    command = [HUB, "--project", project.directory, "run", "--role", "console"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        listens = process.stderr.readline()
        yield process, Served(int(listens.rpartition(":")[2]))
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def followed(database: str, slot: str, tmp_path: Path) -> Shop:
    """A project whose store has been made, and whose hub does not run."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot)
    shop.project.hub("run", "--until-idle")
    return shop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_console_alone(followed: Shop, slot: str, taken: socket.socket, number: signal.Signals) -> None:
    """It tells that nobody else runs; a source that accepts and says nothing is down, and a signal ends it at once."""
    dead = f"postgresql://hub:s3cret@127.0.0.1:{taken.getsockname()[1]}/legacy"
    settle(followed.project, dead, slot, "127.0.0.1:0", token="t0ken")
    with alone(followed.project) as (process, console):
        answer = console.get("/metrics", Authorization="Bearer t0ken")
        ready = console.get("/readyz", Authorization="Bearer t0ken")
        process.send_signal(number)
        began = time.monotonic()
        code = process.wait(20)
        took = time.monotonic() - began
        assert process.stderr
        said = process.stderr.read()

    assert (code, said) == (0, "")
    assert took < 5
    assert answer.samples["hub_stream_source_up", "main/main"] == 0
    assert answer.samples["hub_role_up", "dispatch", ""] == 0
    assert ready.status == 503
    assert "its capture does not run" in ready.json["problems"][0]
    assert "s3cret" not in answer.text + ready.text


def test_what_the_console_cannot_do(followed: Shop, database: str, slot: str, taken: socket.socket) -> None:
    """A sentence with its remedy, and the exit code of its kind: idle, an address, a store."""
    port = taken.getsockname()[1]
    assert "The console is never idle." in followed.says("run", "--role", "console", "--until-idle", ends_with=2)
    for listen, why in (
        (f"127.0.0.1:{port}", "Address already in use"),
        ("192.0.2.1:8080", "Cannot assign requested address"),
        ("nowhere.invalid:8080", ""),
    ):
        settle(followed.project, database, slot, listen)
        said = followed.says("run", "--role", "console", ends_with=3)
        assert said.startswith(f"hub: The console cannot listen on {listen}: {why}")
        assert "Give this hub another address" in said
    followed.path.unlink()
    said = followed.says("run", "--role", "console", ends_with=3)
    assert said == f"hub: There is no store at {followed.path}. `hub run` makes it.\n"


def test_two_requests_on_one_connection(followed: Shop) -> None:
    """As Prometheus asks: it keeps its connection."""
    with alone(followed.project) as (_, console):
        connection = http.client.HTTPConnection("127.0.0.1", console.port, timeout=30)
        for _ in range(2):
            connection.request("GET", "/metrics")
            assert b"hub_build_info" in connection.getresponse().read()
        connection.close()
