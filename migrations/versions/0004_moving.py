"""A store that was copied to another one says so."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table("identity", recreate="always" if sqlite else "never") as batch_op:
        batch_op.add_column(sa.Column("moved_to", sa.Text(), nullable=True))
