"""What Alembic runs for every step: on the connection that the store opened, in its transaction."""

from alembic import context

from zj_ray.rankings.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
