#!/usr/bin/env bash
# What the tests need besides Python: Debian's Postgres with contrib (pg_stat_statements, citext, hstore).
# Installs it where that is allowed, and says what is missing where it is not. Never fails: the tests do that.
set -u

found() { compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null && compgen -G "/usr/share/postgresql/*/extension/hstore.control" >/dev/null; }

if found; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  # Only the binaries are wanted: no cluster of the distribution's own.
  mkdir -p /etc/postgresql-common/createcluster.d
  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/hub-tests.conf
  apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql postgresql-contrib >/dev/null
fi
if ! found; then
  echo "services: Debian's postgresql and postgresql-contrib are missing and could not be installed." >&2
  echo "services: apt-get install postgresql postgresql-contrib; until then the tests that need them are skipped." >&2
fi
exit 0
