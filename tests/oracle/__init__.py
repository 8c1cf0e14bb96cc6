"""What the hub should have said, worked out without the hub: random schemas, random transactions, plain SQL.

Nothing here imports `hub`, `cdc` or `connectors`; `tests/acceptance/test_oracle_independence.py` checks it.
The way through: `schema` → `entities` → `source` (DDL and project) → `writer` → `truth` → `journal` → `compare`.
"""
