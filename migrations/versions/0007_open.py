"""What a receiver may have by an attempt that was not accepted is told apart from what it has deleted."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DELETED = 2  # as of 0001: the place in the events


def upgrade() -> None:
    nothing, one_zero = (
        ("''::bytea", r"'\x00'::bytea") if op.get_bind().dialect.name == "postgresql" else ("x''", "x'00'")
    )
    op.execute(f"UPDATE ledger SET content = {one_zero} WHERE content = {nothing} AND event <> {DELETED}")
