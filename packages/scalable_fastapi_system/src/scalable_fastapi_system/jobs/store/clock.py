"""The database's clock, and which database it is."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.kit.clock import utc_now


def backend_of(session: AsyncSession) -> str:
    """`postgresql`, `sqlite` or `mysql`."""
    name: str = session.get_bind().dialect.name
    return "mysql" if name == "mariadb" else name


async def database_now(session: AsyncSession) -> datetime:
    """The database's clock; SQLite's is this machine's."""
    backend = backend_of(session)
    if backend == "sqlite":
        return utc_now()
    if backend == "mysql":
        moment: datetime = (await session.execute(text("SELECT utc_timestamp(6)"))).scalar_one()
        return moment.replace(tzinfo=utc_now().tzinfo)
    return (await session.execute(text("SELECT now()"))).scalar_one()  # type: ignore[no-any-return]
