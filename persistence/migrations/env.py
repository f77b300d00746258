"""Run by Alembic; the connection comes from ``persistence.database``."""

from alembic import context

from persistence.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
