"""What each receiver has of a document: to begin with, the versions that it accepted as far as attempts are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As of migration 0002: rows are updated, and no index holds what changes.
PARAMETERS = "fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05"


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("entity_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("subscription_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("event", sa.SmallInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("receiver_id", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("entity_id", "key", "subscription_id"),
        sqlite_with_rowid=False,
    )
    postgres = op.get_bind().dialect.name == "postgresql"
    if postgres:
        op.execute(f"ALTER TABLE ledger SET ({PARAMETERS})")
    nothing = "''::bytea" if postgres else "x''"
    op.execute(
        "INSERT INTO ledger (entity_id, key, subscription_id, version, event, content, receiver_id, accepted_at)"
        f" SELECT a.entity_id, a.key, a.subscription_id, a.version, a.event, {nothing}, '', a.started_at + a.duration"
        " FROM attempt a JOIN (SELECT max(seq) AS seq FROM attempt WHERE outcome IN (0, 2)"
        " GROUP BY entity_id, key, subscription_id) last ON last.seq = a.seq"
    )
