"""Alembic's environment: runs migrations on the database that the configuration names."""

from alembic import context
from sqlalchemy import create_engine, pool

from preble.daemon.store.tables import metadata

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
