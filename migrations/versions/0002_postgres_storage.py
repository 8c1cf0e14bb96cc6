"""How Postgres keeps the tables: when it vacuums them, and where it leaves room.

The defaults wait until a fifth of a table is dead, which for a queue with a backlog is a lot, and they vacuum gently,
which lets a busy queue get ahead. Nothing is rewritten: pages that are there are filled as they were.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Rows come and go: vacuum early, at full speed (the tables are small), and keep the planner's numbers fresh.
_QUEUE = {
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_cost_delay": "0",
    "autovacuum_analyze_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.05",
}
# Rows are added, and pruned by age: a twentieth rather than a fifth, so that freezing and pruning come in small doses.
_HISTORY = {
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
}
# Rows are updated, and no index holds what changes: with room in its page a new row version needs no index entry.
_UPDATED = {"fillfactor": "85", "autovacuum_vacuum_scale_factor": "0.05"}

PARAMETERS = {
    "delivery": _QUEUE,
    "fan_out": _QUEUE,
    "fan_out_item": _QUEUE,
    "spool": _QUEUE,
    "document": _HISTORY,
    "attempt": _HISTORY,
    "row_image": _UPDATED,
    "row_reference": {"autovacuum_vacuum_scale_factor": "0.05"},
    # A row that each commit updates. The catalogue is stored apart, or each commit would write it again.
    "stream": {**_QUEUE, "autovacuum_vacuum_threshold": "100", "fillfactor": "50", "toast_tuple_target": "128"},
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, parameters in PARAMETERS.items():
        op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in parameters.items())})")
