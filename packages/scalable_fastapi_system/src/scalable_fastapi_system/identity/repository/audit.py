"""The audit log: add and read; there is no other verb."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from scalable_fastapi_system.identity.models import AuditEvent


def add(session: AsyncSession, event: AuditEvent) -> None:
    """Adds an event to the session's transaction."""
    session.add(event)


async def page(
    session: AsyncSession, *, before: UUID | None, limit: int, subject: str | None = None
) -> list[AuditEvent]:
    """Events, the newest first, from before the given one."""
    statement = select(AuditEvent).order_by(col(AuditEvent.id).desc()).limit(limit)
    if before is not None:
        statement = statement.where(col(AuditEvent.id) < before)
    if subject is not None:
        statement = statement.where(col(AuditEvent.subject) == subject)
    return list((await session.scalars(statement)).all())
