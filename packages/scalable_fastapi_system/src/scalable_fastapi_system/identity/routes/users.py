"""One's own user, password and sign-ins."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response

from scalable_fastapi_system.identity.answers import UserAnswer
from scalable_fastapi_system.identity.dependencies import App, RequestClient, requires
from scalable_fastapi_system.identity.jobs import notify
from scalable_fastapi_system.identity.password_policy import refuse_weak
from scalable_fastapi_system.identity.password_sign_in import has_signed_in_from
from scalable_fastapi_system.identity.principal import ACCOUNT_MANAGE, Principal
from scalable_fastapi_system.identity.repository import sessions as session_rows
from scalable_fastapi_system.identity.repository import users as user_rows
from scalable_fastapi_system.identity.schemas import PasswordChange, SessionOut, UserOut, UserUpdate
from scalable_fastapi_system.identity.service import accounts, sessions
from scalable_fastapi_system.kit.errors import (
    AuthenticationException,
    AuthorizationException,
    NotFoundException,
    RateLimitExceededException,
)
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import carries_secrets, rate_limit

router = APIRouter(tags=["users"])

Reader = Annotated[Principal, requires("profile:read")]
Writer = Annotated[Principal, requires("profile:write")]
AccountHolder = Annotated[Principal, requires(ACCOUNT_MANAGE)]


@router.get("/users/me", response_model=UserAnswer)
async def read_me(request: Request, principal: Reader) -> Response:
    """The caller's own user."""
    data = principal.dict()
    return respond(request, data, **data)


@router.put(
    "/users/me",
    response_model=UserAnswer,
    responses={
        400: {"description": "The address is taken"},
        403: {"description": "Signed in, but not allowed; no API key changes the address"},
    },
)
@rate_limit("auth")
async def update_me(
    request: Request, body: UserUpdate, principal: Writer, identity: App, client: RequestClient
) -> Response:
    """Changes the caller's own user; what is left out stays. The address is changed by signed-in people only."""
    if body.email is None:
        data = principal.dict()
        return respond(request, data, **data)
    if not principal.allows((ACCOUNT_MANAGE,)):
        # Reset links go there: whoever sets the address sets the password.
        raise AuthorizationException(f"The address needs the scope {ACCOUNT_MANAGE}, which no API key has")

    async def admit() -> None:
        # Each change sends a notice to the former address, which may be a stranger's; a refused one tells that it is taken.
        budget = f"\0email {principal.id}"  # no address holds a zero byte
        if not await identity.throttle.admit_message(budget):
            raise RateLimitExceededException(
                "The address was changed too often; try again in ten minutes", headers={"Retry-After": "600"}
            )

    async with identity.database.transaction() as session:
        user, former = await accounts.change_email(
            session,
            principal=principal,
            email=body.email,
            admit=admit,
            client=client,
            now=identity.clock.now(),
        )
        identity.user_changed(session, principal.id)
        if former is not None:
            # To the former address: whoever took the account over reads the new one.
            await notify(session, identity.settings, "email_changed", to=former, username=user.username)
    data = UserOut.model_validate(user, from_attributes=True).model_dump()
    return respond(request, data, "User updated", **data)


@router.post(
    "/users/me/password",
    response_model=Envelope[None],
    responses={401: {"description": "The present password is wrong"}},
)
@rate_limit("auth")
@carries_secrets
async def change_password(
    request: Request, body: PasswordChange, principal: AccountHolder, identity: App, client: RequestClient
) -> Response:
    """Changes the password and ends the caller's other sign-ins."""
    refuse_weak(body.new_password, own_words=(principal.username, principal.email))
    attempt = await identity.throttle.admit(
        # No sign-in can be tried under a name with a zero byte, and so use this budget up.
        f"\0{principal.key}",
        client.address,
        is_known_address=partial(has_signed_in_from, identity, principal.username, client),
    )
    async with identity.database.transaction() as session:
        user = await user_rows.get(session, principal.id)
    hasher = identity.security.passwords
    former = user.hashed_password if user is not None else ""
    if not await hasher.verify_in_thread(body.current_password, former):
        raise AuthenticationException("The present password is wrong")
    new_hash = await hasher.hash_in_thread(body.new_password)
    async with identity.database.transaction() as session:
        await accounts.change_password(
            session,
            principal=principal,
            former_hash=former,
            new_hash=new_hash,
            client=client,
            now=identity.clock.now(),
        )
        identity.user_changed(session, principal.id)
        await notify(
            session, identity.settings, "password_changed", to=principal.email, username=principal.username
        )
    await identity.throttle.give_back(attempt)
    return respond(request, None, "Password changed")


@router.get("/auth/sessions", response_model=Envelope[list[SessionOut]])
async def list_sessions(request: Request, principal: AccountHolder, identity: App) -> Response:
    """The caller's sign-ins that go on, the latest used first."""
    async with identity.database.transaction() as session:
        rows = await session_rows.live(session, principal.id, identity.clock.now())
    data = [
        SessionOut.model_validate({**row.model_dump(), "is_current": row.id == principal.session_id})
        for row in rows
    ]
    return respond(request, data)


@router.delete("/auth/sessions/{session_id}", response_model=Envelope[None])
async def end_session(
    request: Request, session_id: UUID, principal: AccountHolder, identity: App, client: RequestClient
) -> Response:
    """Ends one of the caller's sign-ins."""
    async with identity.database.transaction() as session:
        was_live = await sessions.end(
            session,
            user_id=principal.id,
            session_id=session_id,
            source=principal.key,
            client=client,
            now=identity.clock.now(),
        )
        identity.user_changed(session, principal.id)
    if not was_live:
        raise NotFoundException("There is no such sign-in")
    return respond(request, None, "Signed out there")
