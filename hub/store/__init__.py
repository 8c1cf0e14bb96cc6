"""The hub's own store: SQLite or Postgres through one code path. `tables` is the schema; each other module is one
user's statements."""
