"""Registering, signing in, going on, signing out."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from scalable_fastapi_system.identity.answers import RegisterAnswer, TokenAnswer
from scalable_fastapi_system.identity.dependencies import (
    BEARER_SCHEME,
    App,
    RequestClient,
    get_optional_user,
)
from scalable_fastapi_system.identity.device import DEVICE_COOKIE, set_device_cookie
from scalable_fastapi_system.identity.jobs import notify
from scalable_fastapi_system.identity.password_sign_in import sign_in
from scalable_fastapi_system.identity.principal import ACCOUNT_MANAGE, Principal
from scalable_fastapi_system.identity.schemas import (
    Credentials,
    CredentialsForm,
    LogoutRequest,
    RefreshRequest,
    TokenPair,
    UserCreate,
    UserOut,
)
from scalable_fastapi_system.identity.service import accounts, sessions
from scalable_fastapi_system.identity.tokens import InvalidTokenException, TokenType
from scalable_fastapi_system.kit.errors import AuthenticationException, AuthorizationException
from scalable_fastapi_system.web.dependencies import request_transaction
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import carries_secrets, idempotent, rate_limit

router = APIRouter(prefix="/auth", tags=["auth"])

_NO_STORE = {"cache-control": "no-store"}
_MAX_FORM_FIELDS = 10
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_CREDENTIALS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": Credentials.model_json_schema()},
            _FORM: {"schema": CredentialsForm.model_json_schema()},
        },
    }
}


async def read_credentials(request: Request) -> Credentials:
    """A sign-in from a form, as OAuth 2 clients send it, or from JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == _FORM:
            async with request.form(max_fields=_MAX_FORM_FIELDS) as form:
                return CredentialsForm.model_validate(dict(form))
        if kind == _JSON:
            return Credentials.model_validate_json(await request.body())
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from error
    raise HTTPException(415, f"Send {_JSON} or {_FORM}")


@router.post(
    "/register", response_model=RegisterAnswer, responses={400: {"description": "Already registered"}}
)
@rate_limit("auth")
@idempotent
async def register(request: Request, body: UserCreate, identity: App, client: RequestClient) -> Response:
    """Makes an account. The name and the address must not be taken."""
    if not identity.settings.security.registration_enabled:
        raise AuthorizationException("Registration is closed here")
    # Before the database is asked: whether the name is taken must not show in the time.
    hashed = await identity.security.passwords.hash_in_thread(body.password)
    async with request_transaction(request) as session:
        user = await accounts.register(
            session, username=body.username, email=body.email, hashed_password=hashed, client=client
        )
    data = UserOut.model_validate(user, from_attributes=True).model_dump()
    return respond(request, data, "User registered successfully", headers=_NO_STORE, user=data)


@router.post(
    "/login",
    response_model=TokenAnswer,
    openapi_extra=_CREDENTIALS_BODY,
    responses={
        401: {"description": "Incorrect username or password"},
        415: {"description": "Neither JSON nor a form"},
    },
)
@rate_limit("auth")
@carries_secrets
async def login(
    request: Request,
    credentials: Annotated[Credentials, Depends(read_credentials)],
    identity: App,
    client: RequestClient,
) -> Response:
    """Signs in with name (or address) and password, from a form or JSON."""
    signed_in = await sign_in(
        identity,
        identifier=credentials.username,
        password=credentials.password,
        client=client,
        device=request.cookies.get(DEVICE_COOKIE),
    )
    response = _tokens(request, signed_in.tokens, "Signed in")
    set_device_cookie(request, response, identity, signed_in.user)
    return response


@router.post(
    "/refresh", response_model=TokenAnswer, responses={401: {"description": "The refresh token is not good"}}
)
@carries_secrets
async def refresh(request: Request, body: RefreshRequest, identity: App, client: RequestClient) -> Response:
    """Gives new tokens for a refresh token, which is good once."""
    claims = identity.security.verify_token(body.refresh_token, TokenType.REFRESH)
    session_id, generation = _session_of(claims), claims.get("gen")
    if session_id is None or not isinstance(generation, int):
        raise InvalidTokenException
    now = identity.clock.now()
    async with identity.database.transaction() as session:
        rotation = await sessions.rotate(
            session,
            session_id=session_id,
            generation=generation,
            client=client,
            now=now,
            grace_seconds=identity.settings.security.refresh_reuse_grace_seconds,
        )
        if rotation.refusal == "reuse" and rotation.user is not None and rotation.sign_in is not None:
            identity.user_changed(session, rotation.sign_in.user_id)
            await notify(
                session,
                identity.settings,
                "refresh_token_reused",
                to=rotation.user.email,
                username=rotation.user.username,
            )
    # Only now, with the family's end committed, the request may fail.
    if rotation.refusal is not None or rotation.user is None or rotation.sign_in is None:
        raise InvalidTokenException
    tokens = sessions.issue(identity.security, user=rotation.user, sign_in=rotation.sign_in, now=now)
    return _tokens(request, tokens, "Tokens refreshed")


@router.post(
    "/logout",
    response_model=Envelope[dict[str, int]],
    openapi_extra={"security": [{BEARER_SCHEME: []}, {}]},
    responses={401: {"description": "Neither an access token nor a refresh token"}},
)
async def logout(
    request: Request,
    identity: App,
    client: RequestClient,
    body: LogoutRequest | None = None,
) -> Response:
    """Ends this sign-in, or every sign-in of the user; by access token, or by refresh token where that has expired."""
    body = body or LogoutRequest()
    # Not a dependency: most clients send their access token with everything, and here it may have expired.
    if body.refresh_token is not None:
        claims = identity.security.verify_token(body.refresh_token, TokenType.REFRESH)
        user_id, session_id, generation = claims.get("user_id"), _session_of(claims), claims.get("gen")
        if not isinstance(user_id, int) or session_id is None or not isinstance(generation, int):
            raise InvalidTokenException
    elif (principal := await get_optional_user(request)) is None:
        raise AuthenticationException("Not authenticated")
    else:
        user_id, session_id = _own(principal)
        generation = None
    now, source = identity.clock.now(), f"user:{user_id}"
    async with identity.database.transaction() as session:
        is_everywhere = body.everywhere or session_id is None
        if is_everywhere and session_id is not None and generation is not None:
            # One that is worth nothing any more, a thief's perhaps, ends no more than its own sign-in.
            is_everywhere = await sessions.is_good(
                session,
                user_id=user_id,
                session_id=session_id,
                generation=generation,
                now=now,
                grace_seconds=identity.settings.security.refresh_reuse_grace_seconds,
            )
        if is_everywhere or session_id is None:
            ended = await sessions.end_all(session, user_id=user_id, source=source, client=client, now=now)
        else:
            ended = int(
                await sessions.end(
                    session, user_id=user_id, session_id=session_id, source=source, client=client, now=now
                )
            )
        identity.user_changed(session, user_id)
    return respond(request, {"sessions_ended": ended}, "Signed out", headers=_NO_STORE)


def _tokens(request: Request, tokens: TokenPair, message: str) -> Response:
    data = tokens.model_dump()
    return respond(request, data, message, headers=_NO_STORE, **data)


def _own(principal: Principal) -> tuple[int, UUID | None]:
    if not principal.allows((ACCOUNT_MANAGE,)):
        raise AuthorizationException("An API key has no sign-in to end; delete the key")
    return principal.id, principal.session_id


def _session_of(claims: dict[str, Any]) -> UUID | None:
    try:
        return UUID(claims["sid"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
