"""A receiver's own names for documents hold for the receiver that gave them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of the names from before nobody knows which receiver gave them: they are shown, and not sent.
    op.add_column("ledger", sa.Column("account", sa.LargeBinary, nullable=True))
