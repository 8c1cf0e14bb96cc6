"""Dispatch by several workers: who they are, and which slices of a destination each has."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table("destination_state", recreate="always" if sqlite else "never") as batch_op:
        batch_op.add_column(sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "dispatch_worker",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("destinations", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dispatch_slice",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("slice", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("destination", "slice"),
        sa.ForeignKeyConstraint(["worker_id"], ["dispatch_worker.id"], ondelete="SET NULL"),
    )
    if not sqlite:
        # In which transaction a delivery came: those that became visible since a worker last looked are found by it,
        # in whatever order their transactions ended.
        op.execute("ALTER TABLE delivery ADD COLUMN born xid8 NOT NULL DEFAULT pg_current_xact_id()")
        op.create_index("delivery_born", "delivery", ["born"])
