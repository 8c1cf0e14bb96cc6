#!/usr/bin/env bash
# What the tests need besides Python: Debian's Postgres with contrib (pg_stat_statements, citext, hstore), and Java with
# the jars of Kafka, Kafka Connect and Debezium, which Maven brings.
# Installs it where that is allowed, and says what is missing where it is not. Never fails: the tests do that.
set -u
cd "$(dirname "$0")/.."

postgres_found() { compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null && compgen -G "/usr/share/postgresql/*/extension/hstore.control" >/dev/null; }
java_found() { command -v java >/dev/null && command -v mvn >/dev/null; }

packages=()
postgres_found || packages+=(postgresql postgresql-contrib)
java_found || packages+=(maven default-jre-headless)
if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  # Only the binaries are wanted: no cluster of the distribution's own.
  mkdir -p /etc/postgresql-common/createcluster.d
  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/hub-tests.conf
  apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
fi
if ! postgres_found; then
  echo "services: Debian's postgresql and postgresql-contrib are missing and could not be installed." >&2
  echo "services: apt-get install postgresql postgresql-contrib; until then the tests that need them are skipped." >&2
fi
if ! java_found; then
  echo "services: Maven and Java are missing and could not be installed." >&2
  echo "services: apt-get install maven default-jre-headless; until then the tests that need Kafka are skipped." >&2
elif ! said=$(.venv/bin/python -m stack.jars 2>&1); then
  echo "services: $said" >&2
  echo "services: until then the tests that need Kafka are skipped." >&2
fi
exit 0
