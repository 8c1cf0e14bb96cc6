"""The jars of Kafka, Kafka Connect and Debezium's connector, brought once by Maven.

    python -m stack.jars        bring them if they are not there, and say where they are

They lie in var/stack/jars of the checkout, or in the folder that HUB_STACK_JARS names.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from hub.errors import HubError, OutsideError
from stack.settings import HERE, ROOT, versions

VARIABLE = "HUB_STACK_JARS"
REMEDY = "make stack-jars (it needs Maven, Java 17 and Maven Central)"


@dataclass(frozen=True, slots=True)
class Jars:
    """A folder with everything that runs in Java."""

    directory: Path

    @property
    def libs(self) -> Path:
        """Kafka's and Connect's class path."""
        return self.directory / "libs"

    @property
    def connector(self) -> Path:
        """The folder of Debezium's Postgres connector."""
        return self.directory / "plugins" / "debezium-connector-postgres"

    @property
    def complete(self) -> bool:
        """Whether they are all there, of the versions that are asked for."""
        stamp = self._stamp
        return stamp.exists() and stamp.read_text() == _asked_for()

    @property
    def _stamp(self) -> Path:
        return self.directory / "complete"

    def bring(self) -> None:
        """Anew, by Maven. OutsideError when that is not to be had."""
        maven = shutil.which("mvn")
        if maven is None:
            raise OutsideError("Maven is not installed.", "apt-get install maven")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        defines = [f"-D{name}={value}" for name, value in versions().items()]
        command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), f"-Dstack.directory={self.directory}", *defines]
        done = subprocess.run([*command, "package"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            said = " / ".join((done.stdout + done.stderr).strip().splitlines()[:3])
            raise OutsideError(f"Maven could not bring the jars: {said}", "Look at its settings and the network.")
        self._stamp.write_text(_asked_for())


def jars() -> Jars:
    """Where they lie, or would."""
    return Jars(Path(os.environ.get(VARIABLE) or ROOT / "var" / "stack" / "jars").resolve())


def require_jars() -> Jars:
    """OutsideError when they have not been brought, or are of other versions."""
    found = jars()
    if not found.complete:
        raise OutsideError(f"The jars of Kafka and Debezium are not in {found.directory}.", REMEDY)
    return found


def _asked_for() -> str:
    """Changes with the versions and with the list of jars."""
    return sha256(b"".join((HERE / name).read_bytes() for name in ("pom.xml", "versions.env"))).hexdigest()


def main() -> None:
    found = jars()
    try:
        if not found.complete:
            print(f"Bringing Kafka, Kafka Connect and Debezium into {found.directory} …", flush=True)
            found.bring()
    except HubError as error:
        sys.exit(str(error))
    print(f"The jars are in {found.directory}.")


if __name__ == "__main__":
    main()
