"""Alembic's environment. The connection and the metadata are handed in by `infra.database.migrate.Migrator`."""

from alembic import context

from scalable_fastapi_system.infra.database.base import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=False,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=True,
    include_object=context.config.attributes.get("include_object"),
)
with context.begin_transaction():
    context.run_migrations()
