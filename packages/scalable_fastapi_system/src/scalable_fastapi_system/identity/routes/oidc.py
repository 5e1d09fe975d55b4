"""Signing in through other providers, and which of them a user has."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse

from scalable_fastapi_system.identity.answers import TokenAnswer
from scalable_fastapi_system.identity.dependencies import App, RequestClient, requires
from scalable_fastapi_system.identity.oidc import STATE_LIFETIME
from scalable_fastapi_system.identity.principal import ACCOUNT_MANAGE, Principal
from scalable_fastapi_system.identity.repository import external as rows
from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.identity.schemas import ExternalIdentityOut
from scalable_fastapi_system.identity.service import external, sessions
from scalable_fastapi_system.kit.errors import AuthenticationException
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import carries_secrets, rate_limit

router = APIRouter(tags=["other providers"])

STATE_COOKIE = "oidc_state"
AccountHolder = Annotated[Principal, requires(ACCOUNT_MANAGE)]
ProviderName = Annotated[str, Path(max_length=64, description="As the settings name it.")]


class Redirection(BaseModel):
    """Where to send the browser."""

    authorization_url: str = Field(description="The provider's page.")


@router.get("/auth/oidc", response_model=Envelope[list[str]])
async def list_providers(request: Request, identity: App) -> Response:
    """The providers that people may sign in with."""
    return respond(request, identity.oidc.names)


@router.get(
    "/auth/oidc/{provider}/login",
    status_code=302,
    response_class=RedirectResponse,
    responses={302: {"description": "To the provider's page"}},
)
@rate_limit("auth")
async def begin(request: Request, provider: ProviderName, identity: App) -> Response:
    """Sends the browser to the provider."""
    beginning = await identity.oidc.get(provider).begin()
    response = RedirectResponse(beginning.url, status_code=302, headers={"cache-control": "no-store"})
    _set_cookie(request, response, identity, beginning.cookie)
    return response


@router.post("/auth/oidc/{provider}/link", response_model=Envelope[Redirection])
async def begin_link(
    request: Request, provider: ProviderName, principal: AccountHolder, identity: App
) -> Response:
    """Begins to add a provider to the caller's account: send the browser that asked to the URL in the answer."""
    beginning = await identity.oidc.get(provider).begin(link_to=principal)
    response = respond(request, {"authorization_url": beginning.url}, headers={"cache-control": "no-store"})
    _set_cookie(request, response, identity, beginning.cookie)
    return response


@router.get(
    "/auth/oidc/{provider}/callback",
    response_model=TokenAnswer,
    responses={
        401: {"description": "The provider did not confirm it, or it was not begun here"},
        403: {"description": "Registration is closed, or the provider vouches for no address"},
        409: {"description": "The address belongs to an account already"},
    },
)
@rate_limit("auth")
@carries_secrets
async def finish(
    request: Request,
    provider: ProviderName,
    identity: App,
    client: RequestClient,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=4096)] = "",
    error: Annotated[str | None, Query(max_length=200)] = None,
    iss: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """Where the provider sends the browser back to: signs in, making an account where there is none."""
    chosen = identity.oidc.get(provider)
    cookie = request.cookies.get(STATE_COOKIE)
    if error is not None or not code or cookie is None:
        raise AuthenticationException("The provider did not confirm this sign-in")
    proven = await chosen.finish(cookie=cookie, state=state, code=code, issuer=iss)
    now = identity.clock.now()
    async with identity.database.transaction() as session:
        if proven.link is not None:
            user = await external.link(session, link=proven.link, proven=proven, client=client, now=now)
        else:
            user = await external.user_of(
                session,
                proven=proven,
                may_register=identity.settings.security.registration_enabled,
                client=client,
            )
        if not user.is_active:
            raise AuthenticationException("This account is disabled")
        opened = await sessions.open_session(
            session, user=user, method="oidc", client=client, now=now, lifetime=identity.sign_in_lifetime
        )
        if proven.link is not None:
            await identity.notify_of_addition(
                session,
                "identity_added",
                user_id=proven.link.user_id,
                to=user.email,
                username=user.username,
            )
    data = sessions.issue(identity.security, user=user, sign_in=opened, now=now).model_dump()
    response = respond(request, data, "Signed in", headers={"cache-control": "no-store"}, **data)
    response.delete_cookie(STATE_COOKIE, path=_cookie_path(identity))
    return response


@router.get("/users/me/identities", response_model=Envelope[list[ExternalIdentityOut]])
async def list_identities(request: Request, principal: AccountHolder, identity: App) -> Response:
    """The providers through which the caller can sign in."""
    async with identity.database.transaction() as session:
        found = await rows.of_user(session, principal.id)
    return respond(request, [ExternalIdentityOut.model_validate(row, from_attributes=True) for row in found])


@router.delete("/users/me/identities/{identity_id}", response_model=Envelope[None])
async def remove_identity(
    request: Request, identity_id: UUID, principal: AccountHolder, identity: App, client: RequestClient
) -> Response:
    """Takes a provider away from the caller's account, and ends the other sign-ins that were made through providers."""
    async with identity.database.transaction() as session:
        await external.unlink(
            session,
            principal=principal,
            identity_id=identity_id,
            client=client,
            now=identity.clock.now(),
        )
        identity.user_changed(session, principal.id)
    return respond(request, None, "Provider removed")


def _cookie_path(identity: Identity) -> str:
    # Of the redirect URI, as the browser sees it: a proxy may take a part of that off before it comes here.
    return f"{identity.settings.mail.public_path}/auth/oidc"


def _set_cookie(request: Request, response: Response, identity: Identity, value: str) -> None:
    response.set_cookie(
        STATE_COOKIE,
        value,
        max_age=int(STATE_LIFETIME.total_seconds()),
        path=_cookie_path(identity),
        secure=identity.settings.is_production or request.url.scheme == "https",
        httponly=True,
        samesite="lax",  # the provider's redirect comes from another site
    )
