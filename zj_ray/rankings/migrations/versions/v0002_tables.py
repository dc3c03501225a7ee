"""All tables: items and answers, rankings, gold ranks, accounts and tickets; stores carry their version 0002."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", None


def upgrade() -> None:
    _items()
    _rankings()
    _labelling()


def _items() -> None:
    op.create_table(
        "item",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("prompt_id", sa.String(128), nullable=False, index=True),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("department", sa.String(64)),
        _created(),
    )
    op.create_table(
        "answer",
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=False),
    )


def _rankings() -> None:
    op.create_table(
        "ranking",
        sa.Column("event", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), nullable=False, index=True),
        sa.Column("annotator", sa.String(128), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("overall", sa.JSON(), nullable=False),
        sa.Column("aspects", sa.JSON()),
        _created(),
        sa.Column("action", sa.String(8), nullable=False, server_default="rank"),
        sa.Column("all_wrong", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("adjudicated", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("right_answer", sa.Text()),
        sa.Column("comment", sa.Text()),
        sa.Column("seconds", sa.Float()),
        sa.Column("shown", sa.JSON()),
        sa.Column("key", sa.String(64), unique=True, index=True),
    )
    op.create_table(
        "gold",
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("overall", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(128), nullable=False),
        _created(),
    )


def _labelling() -> None:
    op.create_table(
        "account",
        sa.Column("event", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False, index=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        _created(),
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


def _created() -> sa.Column:
    return sa.Column("created", sa.DateTime(timezone=True), nullable=False)
