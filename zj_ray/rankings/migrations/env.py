"""What Alembic runs for every step: on the connection that the store opened, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
