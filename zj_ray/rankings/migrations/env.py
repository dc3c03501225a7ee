"""Alembic runs this for every step, on the connection that the store opened and in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
