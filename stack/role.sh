#!/bin/sh
# The role that the hub follows the legacy database with, made when the database is; the rest is source.sql.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
  --set password="$(cat /run/secrets/legacy_password)" <<'SQL'
CREATE ROLE hub LOGIN PASSWORD :'password';
SQL
