"""The whole distributed mode as background processes of this machine, for `make stack`.

    python -m stack.local up      bring the jars, start what does not run yet, wait for the first delivered document
    python -m stack.local down    end what `up` has started, and nothing else; the data stay

Everything is in var/stack of the checkout: data, settings, logs, and a file `env` for a shell to read.
"""

import argparse
import base64
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from examples.postgres import LocalPostgres
from hub.errors import HubError, OutsideError
from stack.connect import Connect
from stack.jars import jars
from stack.kafka import Broker
from stack.roles import HubRole, Receiver
from stack.servers import LocalServer, free_ports
from stack.settings import ROOT

DIRECTORY = ROOT / "var" / "stack"
EXAMPLE = ROOT / "examples" / "conference"
PROJECT = EXAMPLE / "distributed"
LEGACY, STORE = "conference", "hub"  # databases
ROLE = "hub"  # that follows the legacy database
PASSWORD = "legacy_password"  # the role's, as a file among Connect's secrets
ROLES = ("capture-1", "capture-2", "dispatch-1", "dispatch-2", "console")
DELIVERED_SECONDS = 120.0  # until the first document of the snapshot has arrived


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything that `up` has started, in `directory`."""

    directory: Path
    postgres: LocalPostgres
    broker: Broker
    connect: Connect

    @property
    def environ(self) -> Path:
        """For a shell to read: what the example's project takes from the environment."""
        return self.directory / "env"


def up(directory: Path) -> Stack:
    """Every service ready. OutsideError when one is not to be had or does not start."""
    directory.mkdir(parents=True, exist_ok=True)
    with _step("jars") as done:
        found = jars()
        if not found.complete:
            found.bring()
        done(_near(found.directory))
    with _step("Postgres") as done:
        postgres = _postgres(directory)
        done(f"127.0.0.1:{postgres.port}, databases {LEGACY} and {STORE}")
    with _step("Kafka") as done:
        broker = Broker(found, directory, lasting=True)
        broker.start()
        done(broker.bootstrap)
    with _step("Kafka Connect") as done:
        connect = Connect(found, directory, broker.bootstrap, lasting=True)
        password = _secret(connect, PASSWORD, secrets.token_urlsafe(24))
        connect.start()
        done(connect.url)
    with _step("the DBA's SQL") as done:
        _make_role(postgres, password)
        done(f"the role {ROLE}, its grants, a publication")
    stack = Stack(directory, postgres, broker, connect)
    environ = _write_environ(stack, password)
    with _step("the hub's store") as done:
        _hub(environ, "store", "upgrade")
        done("of this version")
    with _step("the connector") as done:
        _hub(environ, "source", "register", "--password", f"${{dir:{connect.secrets}:{PASSWORD}}}")
        done("runs")
    receiver, *roles = _roles(directory, environ)
    for server in (receiver, *roles):
        with _step(server.name) as done:
            server.start()
            done(environ["RECEIVER_URL"] if server is receiver else _near(server.log))
    with _step("first document") as done:
        done(_first_document(Path(environ["ARCHIVE_PATH"]), roles))
    return stack


def _hub(environ: Mapping[str, str], *arguments: str) -> None:
    """A command of the hub's. OutsideError with what it said when it fails."""
    command = [sys.executable, "-m", "hub", "--project", str(PROJECT), *arguments]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)
    if done.returncode:
        raise OutsideError(f"hub {arguments[0]} {arguments[1]} failed: {done.stderr.strip()}")


def _roles(directory: Path, environ: Mapping[str, str]) -> list[LocalServer]:
    return [Receiver(directory, environ), *(HubRole(name, PROJECT, directory, environ) for name in ROLES)]


def _first_document(archive: Path, roles: Sequence[LocalServer]) -> str:
    """Wait for what is archived first. OutsideError, with a role's last words, when one has ended or nothing comes."""
    end = time.monotonic() + DELIVERED_SECONDS
    while not (archive.exists() and archive.stat().st_size):
        ended = [role for role in roles if role.process() is None]
        if ended or time.monotonic() > end:
            which = ended[0] if ended else roles[0]
            raise OutsideError(f"Nothing was delivered. {which.name}: {which.said()}")
        time.sleep(0.1)
    return f"in {_near(archive)}"


def down(directory: Path) -> None:
    """End what `up` has started there, last first."""
    found = jars()
    services: tuple[LocalServer, ...] = (Connect(found, directory, ""), Broker(found, directory))
    for server in (*reversed(_roles(directory, {})), *services):
        with _step(server.name) as done:
            runs = server.process() is not None
            server.stop()
            done("ended" if runs else "did not run")
    with _step("Postgres") as done:
        postgres = _server(directory)
        runs = _runs(postgres)
        if runs:
            postgres.stop()
        done("ended" if runs else "did not run")


def _secret(connect: Connect, name: str, made: str) -> str:
    """One that is kept in a file that only its owner reads: `made`, or what an earlier `up` made."""
    connect.secrets.mkdir(mode=0o700, exist_ok=True)
    file = connect.secrets / name
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(made)
    return file.read_text()


def _postgres(directory: Path) -> LocalPostgres:
    """A running server with both databases; the legacy application's with its seed. It keeps its port, for the
    connector that is registered knows it."""
    server = _server(directory)
    server.port = _port(directory, "postgres")
    if not _runs(server):
        server.start()
    with psycopg.connect(server.url(), autocommit=True) as admin:
        names = {row[0] for row in admin.execute("select datname from pg_database").fetchall()}
        for name in {LEGACY, STORE} - names:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with psycopg.connect(server.url(LEGACY)) as owner:
        if owner.execute("select to_regclass('public.orders')").fetchone() == (None,):
            for file in ("schema.sql", "seed.sql"):
                owner.execute((EXAMPLE / file).read_bytes())
    return server


def _server(directory: Path) -> LocalPostgres:
    """PyPI's, as in the demo: of the major version that compose.yaml has."""
    return LocalPostgres(directory / "postgres", "pypi")


def _runs(server: LocalPostgres) -> bool:
    """Whether the process of the number that it left is a server on its data, which are its working directory."""
    try:
        pid = int((server.data / "postmaster.pid").read_text().splitlines()[0])
        return Path(psutil.Process(pid).cwd()) == server.data
    except (OSError, ValueError, IndexError, psutil.Error):
        return False


def _make_role(server: LocalPostgres, password: str) -> None:
    """What a DBA does once: the role with its password, then what `hub source sql` has printed."""
    with psycopg.connect(server.url(LEGACY), autocommit=True) as owner:
        owner.execute((EXAMPLE / "source.sql").read_bytes())
        owner.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(ROLE), password))


def _write_environ(stack: Stack, password: str) -> dict[str, str]:
    """What the example's project takes from the environment: kept for a shell to read. Its ports stay as they are."""
    postgres = stack.postgres
    webhook = _secret(stack.connect, "webhook_secret", "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode())
    environ = {
        "LEGACY_URL": postgres.url(LEGACY, user=ROLE, password=password),
        "LEGACY_OWNER_URL": postgres.url(LEGACY),
        "HUB_STORE": postgres.url(STORE).replace("postgresql://", "postgresql+psycopg://", 1),
        "KAFKA_BOOTSTRAP": stack.broker.bootstrap,
        "KAFKA_CONNECT": stack.connect.url,
        "RECEIVER_URL": f"http://127.0.0.1:{_port(stack.directory, 'receiver')}",
        "CONSOLE_LISTEN": f"127.0.0.1:{_port(stack.directory, 'console')}",
        "WEBHOOK_SECRET": webhook,
        "ARCHIVE_PATH": str(stack.directory / "archive.jsonl"),
    }
    stack.environ.touch(mode=0o600)
    stack.environ.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()))
    return environ


def _port(directory: Path, name: str) -> int:
    """One that was free when it was first asked for, and is kept."""
    kept = directory / f"{name}.port"
    if not kept.exists():
        kept.write_text(str(free_ports(1)[0]))
    return int(kept.read_text())


def _guide(stack: Stack) -> str:
    """How to go on, to copy."""
    return f"""
  data, settings, logs  {_near(stack.directory)}
  Go on, with .venv/bin in the path:
    . {_near(stack.environ)}
    hub --project {_near(PROJECT)} status
    curl "$CONSOLE_LISTEN/metrics"
  Change something in the legacy application, and see what arrives at $RECEIVER_URL:
    python -m examples.conference.application --url "$LEGACY_OWNER_URL"
    python -m examples.conference.traffic http://127.0.0.1:8090
  End all of it, not the data:
    make stack-down"""


@contextmanager
def _step(name: str) -> Iterator[Callable[[str], None]]:
    began = time.monotonic()
    yield lambda what: print(f"  {name:<22}{what:<64}{time.monotonic() - began:5.1f} s", flush=True)


def _near(path: Path) -> str:
    """Shorter where it can be: relative to where one stands."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Postgres, Kafka, Kafka Connect and the hub on this machine.")
    parser.add_argument("what", choices=["up", "down"])
    options = parser.parse_args()
    try:
        if options.what == "up":
            print(_guide(up(DIRECTORY)))
        else:
            down(DIRECTORY)
    except HubError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
