"""The audit log's entries: who did what to whom, from where, in the transaction of the deed itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.models import AuditEvent
from scalable_fastapi_system.identity.repository import audit

ANONYMOUS = "anonymous"
SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from, as far as it can be believed."""

    address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


NO_CLIENT = Client()


def subject_of(user_id: int | None) -> str:
    """How the log names a user."""
    return f"user:{user_id}"


def record(
    session: AsyncSession,
    source: str,
    subject: str,
    action: str,
    *,
    client: Client = NO_CLIENT,
    **detail: Any,
) -> None:
    """Adds `source:subject:action` to the transaction. `detail` is JSON without secrets."""
    audit.add(
        session,
        AuditEvent(
            source=source,
            subject=subject,
            action=action,
            ip_address=client.address,
            user_agent=client.user_agent,
            request_id=client.request_id,
            detail=detail,
        ),
    )
