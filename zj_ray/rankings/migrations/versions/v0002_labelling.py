"""What the ranking page needs: what a doctor says besides ranks, gold, accounts, and tickets."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.add_column("ranking", sa.Column("action", sa.String(8), nullable=False, server_default="rank"))
    for flag in ("all_wrong", "adjudicated"):
        op.add_column("ranking", sa.Column(flag, sa.Boolean(), nullable=False, server_default=sa.false()))
    for column in (
        sa.Column("right_answer", sa.Text()),
        sa.Column("comment", sa.Text()),
        sa.Column("seconds", sa.Float()),
        sa.Column("shown", sa.JSON()),
        sa.Column("key", sa.String(64)),
    ):
        op.add_column("ranking", column)
    op.create_index("ix_ranking_key", "ranking", ["key"], unique=True)
    op.create_table(
        "gold",
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("overall", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(128), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "account",
        sa.Column("event", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False, index=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "ticket",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), nullable=False),
        sa.Column("slot", sa.Integer()),
        sa.Column("adjudicating", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("annotator", sa.String(128), index=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("priority", sa.Float(), nullable=False),
        sa.Column("since", sa.Float()),
        sa.Column("until", sa.Float()),
        sa.UniqueConstraint("item", "slot"),
        sa.UniqueConstraint("item", "annotator"),
    )
    op.create_index("ix_ticket_order", "ticket", ["state", "priority"])
