"""The parts of the local stack that need no Java."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hub.errors import OutsideError
from stack.environment import filled
from stack.jars import Jars, require_jars
from stack.kafka import Broker
from stack.servers import PORTS, LocalServer, free_ports
from stack.settings import HERE, read_properties, versions, write_properties


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    """One that has never been started, but has its settings."""
    server = Broker(Jars(tmp_path / "jars"), tmp_path / "server")
    server.directory.mkdir()
    write_properties(server.properties, {"advertised.listeners": "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"})
    return server


def test_properties_are_read_as_they_are_written(tmp_path: Path) -> None:
    """An equals sign in a value stays; comments and empty lines go."""
    file = tmp_path / "some.properties"
    write_properties(file, {"a.b": "1=2", "c": ""})
    file.write_text(f"# comment\n\n{file.read_text()}")

    assert read_properties(file) == {"a.b": "1=2", "c": ""}


@pytest.mark.parametrize("name", ["broker.properties", "connect.properties"])
def test_shared_settings_need_no_more_than_our_reader_knows(name: str) -> None:
    """No continuation line, no escape, no `:` for `=`: Java would read them otherwise."""
    lines = [line for line in (HERE / name).read_text().splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if "\\" in line or not line.partition("=")[0].replace(".", "").isalnum()] == []
    assert len(lines) == len(read_properties(HERE / name))


def test_ports_are_ones_that_the_kernel_does_not_give_away() -> None:
    """Else another connection may take one while its server is killed."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    assert max(PORTS) < first
    assert len(set(free_ports(3))) == 3


def test_where_a_client_goes_is_read_from_the_settings(broker: Broker) -> None:
    """So that another process, and a restart, find the same address."""
    assert broker.bootstrap == "127.0.0.1:1"


def test_a_foreign_process_of_the_kept_number_is_not_ours(broker: Broker) -> None:
    """Numbers are used again: to stop it would end somebody else's process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreign:
        (broker.directory / "kafka.pid").write_text(str(foreign.pid))

        assert broker.process() is None
        broker.stop()
        broker.kill()
        assert foreign.poll() is None
        foreign.kill()


def test_a_process_that_names_our_settings_is_ours(broker: Broker) -> None:
    """Whoever started it: `make stack-down` is not the process that `make stack` was."""
    command = [sys.executable, "-c", "input()", *broker.command()[-2:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ours:
        (broker.directory / "kafka.pid").write_text(str(ours.pid))

        assert broker.process() is not None
        broker.kill()
        assert broker.process() is None


class Sleeper(LocalServer):
    """Ready at the second look."""

    name = "sleeper"
    looks = 0

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(60)", "a", "b"]

    def is_ready(self) -> bool:
        self.looks += 1
        return self.looks > 1


def test_a_child_that_has_no_command_line_yet_has_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux shows an empty one until the new program is loaded, which on a busy machine is after `Popen` returns."""
    server = Sleeper(tmp_path)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [])

    with server:
        assert server.looks == 2
    assert server.process() is None


def test_jars_of_other_versions_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that an earlier checkout filled is said to be incomplete, with what to do."""
    monkeypatch.setenv("HUB_STACK_JARS", str(tmp_path))
    (tmp_path / "complete").write_text("something else")

    with pytest.raises(OutsideError, match="make stack-jars"):
        require_jars()


def test_the_environment_file_gets_secrets_of_its_own() -> None:
    """Each empty one another, nothing else changed; in a URL they need no escapes."""
    example = "# A\nA_PASSWORD=\nB_PASSWORD=\nWEBHOOK_SECRET=\nPORT=8080\n"
    got = dict(line.split("=", 1) for line in filled(example).splitlines() if not line.startswith("#"))

    assert got["A_PASSWORD"] != got["B_PASSWORD"]
    assert got["A_PASSWORD"].isalnum() and len(got["A_PASSWORD"]) >= 32
    assert got["WEBHOOK_SECRET"].startswith("whsec_") and len(got["WEBHOOK_SECRET"]) == 38
    assert got["PORT"] == "8080"
    assert filled(example) != filled(example)


def test_versions_are_exact() -> None:
    """Each names one release, but for Java, of which Kafka asks a major version."""
    assert {name: version.count(".") >= 1 for name, version in versions().items() if name != "JAVA_VERSION"} == {
        name: True for name in versions() if name != "JAVA_VERSION"
    }
