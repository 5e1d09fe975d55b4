"""Alembic's environment. The connection and the metadata are handed in by `infra.database.migrate.Migrator`."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import JSON, make_url
from sqlalchemy.dialects import postgresql

from scalable_fastapi_system.infra.database import base


def render_item(kind: str, item: Any, autogenerate: AutogenContext) -> str | Literal[False]:
    """Our column types by their own names, and with what they are imported from, as for any type that is not
    SQLAlchemy's: Alembic writes its module and imports nothing.
    """
    if kind != "type":
        return False
    name = _own_name(item)
    if name is not None:
        autogenerate.imports.add(f"from {base.__name__} import {name}")
        return f"{name}()"
    module = type(item).__module__
    if not module.startswith("sqlalchemy."):
        autogenerate.imports.add(f"import {module}")
    return False


def _own_name(item: Any) -> str | None:
    if isinstance(item, base.UTCDateTime):
        return "UTCDateTime"
    is_json = type(item) is JSON and isinstance(item.dialect_impl(_POSTGRESQL), postgresql.JSONB)
    return "JSONColumn" if is_json else None


_POSTGRESQL = make_url("postgresql://").get_dialect()()

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=base.metadata,
    compare_type=True,
    compare_server_default=False,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=True,
    render_item=render_item,
    include_object=context.config.attributes.get("include_object"),
)
with context.begin_transaction():
    context.run_migrations()
