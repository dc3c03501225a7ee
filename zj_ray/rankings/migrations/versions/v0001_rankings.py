"""Items, their answers and the rankings, as stores were before they had versions."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "item",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("prompt_id", sa.String(128), nullable=False, index=True),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("department", sa.String(64)),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "answer",
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=False),
    )
    op.create_table(
        "ranking",
        sa.Column("event", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("item", sa.String(128), sa.ForeignKey("item.id"), nullable=False, index=True),
        sa.Column("annotator", sa.String(128), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("overall", sa.JSON(), nullable=False),
        sa.Column("aspects", sa.JSON()),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
