"""What administrators do: look at users, enable, disable and appoint them, read the audit log."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from scalable_fastapi_system.identity.dependencies import App, RequestClient, requires
from scalable_fastapi_system.identity.models import AuditEvent
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.identity.repository import audit as audit_rows
from scalable_fastapi_system.identity.repository import users as user_rows
from scalable_fastapi_system.identity.schemas import AuditEventOut, UserOut
from scalable_fastapi_system.identity.service import accounts
from scalable_fastapi_system.kit.errors import ConflictException, ValidationException
from scalable_fastapi_system.kit.pagination import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    decode_cursor,
    page_of,
)
from scalable_fastapi_system.web.envelope import Envelope, respond

router = APIRouter(prefix="/admin", tags=["administration"])

UserAdmin = Annotated[Principal, requires("admin:users")]
Auditor = Annotated[Principal, requires("admin:audit")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
Cursor = Annotated[str | None, Query(max_length=200)]
# The largest that the column holds: above it there is nobody, and some drivers raise.
_MAX_USER_ID = 2**31 - 1
UserId = Annotated[int, Path(ge=1, le=_MAX_USER_ID)]


class AccessChange(BaseModel):
    """What to change about a user's access. Left out: unchanged."""

    model_config = ConfigDict(extra="forbid")

    is_active: bool | None = Field(
        None, strict=True, description="False: refused everywhere within the revocation delay."
    )
    role: Literal["user", "admin"] | None = None


@router.get("/users", response_model=Envelope[list[UserOut]])
async def list_users(
    request: Request,
    _principal: UserAdmin,
    identity: App,
    limit: Limit = DEFAULT_PAGE_SIZE,
    cursor: Cursor = None,
    role: Annotated[Literal["user", "admin"] | None, Query()] = None,
) -> Response:
    """Users in the order of their ids."""
    after = 0 if cursor is None else decode_cursor(cursor, types=(int,))[0]
    if not 0 <= after <= _MAX_USER_ID:
        raise ValidationException("The cursor is not one that this list gave out", field="cursor")
    async with identity.database.transaction() as session:
        found = await user_rows.page(session, after_id=after, limit=limit + 1, role=role)
    page = page_of(found, limit=limit, key=lambda user: (user.id,))
    data = [UserOut.model_validate(user, from_attributes=True) for user in page.items]
    return respond(request, data, next_cursor=page.next_cursor)


@router.patch(
    "/users/{user_id}",
    response_model=Envelope[UserOut],
    responses={409: {"description": "It is your own access"}},
)
async def change_access(
    request: Request,
    user_id: UserId,
    body: AccessChange,
    principal: UserAdmin,
    identity: App,
    client: RequestClient,
) -> Response:
    """Enables, disables or appoints a user. Administrators cannot do this to themselves: one must remain."""
    if user_id == principal.id:
        raise ConflictException("Another administrator has to change your own access")
    async with identity.database.transaction() as session:
        user = await accounts.set_access(
            session,
            user_id=user_id,
            source=principal.key,
            client=client,
            now=identity.clock.now(),
            is_active=body.is_active,
            role=body.role,
            administrator_id=principal.id,
        )
        identity.user_changed(session, user_id)
    return respond(request, UserOut.model_validate(user, from_attributes=True), "Access changed")


@router.get("/audit", response_model=Envelope[list[AuditEventOut]])
async def read_audit_log(
    request: Request,
    _principal: Auditor,
    identity: App,
    limit: Limit = DEFAULT_PAGE_SIZE,
    cursor: Cursor = None,
    subject: Annotated[
        str | None, Query(max_length=96, pattern=r"^[\w:.-]+$", description="For instance `user:7`.")
    ] = None,
) -> Response:
    """What happened to accounts, the newest first."""
    before: UUID | None = None if cursor is None else decode_cursor(cursor, types=(UUID,))[0]
    async with identity.database.transaction() as session:
        found = await audit_rows.page(session, before=before, limit=limit + 1, subject=subject)
    page = page_of(found, limit=limit, key=_key)
    data = [AuditEventOut.model_validate(row, from_attributes=True) for row in page.items]
    return respond(request, data, next_cursor=page.next_cursor)


def _key(row: AuditEvent) -> tuple[UUID]:
    return (row.id,)
