"""API keys of the caller."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.dependencies import App, RequestClient, requires
from scalable_fastapi_system.identity.models import ApiKey
from scalable_fastapi_system.identity.principal import ACCOUNT_MANAGE, Principal
from scalable_fastapi_system.identity.repository import api_keys as rows
from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.identity.schemas_api_keys import (
    ApiKeyCreate,
    ApiKeyOut,
    ApiKeyRotate,
    NewApiKeyOut,
)
from scalable_fastapi_system.identity.service import api_keys
from scalable_fastapi_system.kit.pagination import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    decode_cursor,
    page_of,
)
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import carries_secrets

router = APIRouter(prefix="/api-keys", tags=["api keys"])

# A key must not be able to make further keys: that would outlive its own end.
AccountHolder = Annotated[Principal, requires(ACCOUNT_MANAGE)]


@router.post(
    "",
    response_model=Envelope[NewApiKeyOut],
    status_code=201,
    responses={409: {"description": "There are as many as one may have"}},
)
@carries_secrets
async def create_key(
    request: Request, body: ApiKeyCreate, principal: AccountHolder, identity: App, client: RequestClient
) -> Response:
    """Makes a key. The answer is the only time that it is shown."""
    lifetime = None if body.expires_in_days is None else timedelta(days=body.expires_in_days)
    async with identity.database.transaction() as session:
        row, text = await api_keys.create(
            session,
            principal=principal,
            hasher=identity.key_hasher,
            name=body.name,
            scopes=body.scopes,
            lifetime=lifetime,
            client=client,
            now=identity.clock.now(),
        )
        await _notify(identity, session, principal)
    return _new_key(request, row, text)


@router.get("", response_model=Envelope[list[ApiKeyOut]])
async def list_keys(
    request: Request,
    principal: AccountHolder,
    identity: App,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The caller's keys, the newest first, ended ones too."""
    after = None if cursor is None else decode_cursor(cursor, types=(UUID,))[0]
    async with identity.database.transaction() as session:
        found = await rows.of_user(session, principal.id, after=after, limit=limit + 1)
    page = page_of(found, limit=limit, key=lambda row: (row.id,))
    data = [ApiKeyOut.model_validate(row) for row in page.items]
    return respond(request, data, next_cursor=page.next_cursor)


@router.post(
    "/{key_id}/rotate",
    response_model=Envelope[NewApiKeyOut],
    status_code=201,
    responses={409: {"description": "It has ended or has a successor, or there are as many as one may have"}},
)
@carries_secrets
async def rotate_key(
    request: Request,
    key_id: UUID,
    principal: AccountHolder,
    identity: App,
    client: RequestClient,
    body: ApiKeyRotate | None = None,
) -> Response:
    """Makes a key in the place of another; both are good until the overlap is over."""
    overlap = timedelta(seconds=(body or ApiKeyRotate()).overlap_seconds)
    async with identity.database.transaction() as session:
        row, text = await api_keys.rotate(
            session,
            principal=principal,
            hasher=identity.key_hasher,
            key_id=key_id,
            overlap=overlap,
            client=client,
            now=identity.clock.now(),
        )
        await _notify(identity, session, principal)
        identity.user_changed(session, principal.id)
    return _new_key(request, row, text)


@router.delete("/{key_id}", response_model=Envelope[None])
async def revoke_key(
    request: Request, key_id: UUID, principal: AccountHolder, identity: App, client: RequestClient
) -> Response:
    """Ends a key at once."""
    async with identity.database.transaction() as session:
        await api_keys.revoke(
            session, principal=principal, key_id=key_id, client=client, now=identity.clock.now()
        )
        identity.user_changed(session, principal.id)
    return respond(request, None, "Key revoked")


async def _notify(identity: Identity, session: AsyncSession, principal: Principal) -> None:
    await identity.notify_of_addition(
        session, "api_key_added", user_id=principal.id, to=principal.email, username=principal.username
    )


def _new_key(request: Request, row: ApiKey, text: str) -> Response:
    data = {**ApiKeyOut.model_validate(row).model_dump(), "key": text}
    return respond(
        request,
        data,
        "Keep the key: it is not shown again",
        status_code=201,
        headers={"cache-control": "no-store"},
    )
