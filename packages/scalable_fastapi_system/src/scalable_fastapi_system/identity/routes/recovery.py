"""Forgotten passwords."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from scalable_fastapi_system.identity.dependencies import App, RequestClient
from scalable_fastapi_system.identity.device import set_device_cookie
from scalable_fastapi_system.identity.jobs import notify, send_password_reset
from scalable_fastapi_system.identity.mail import sender_of
from scalable_fastapi_system.identity.password_policy import refuse_weak
from scalable_fastapi_system.identity.schemas import ForgottenPassword, PasswordReset
from scalable_fastapi_system.identity.service import recovery
from scalable_fastapi_system.jobs.enqueueing import enqueue
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import rate_limit

router = APIRouter(prefix="/auth/password", tags=["auth"])


@router.post("/forgot", response_model=Envelope[None], status_code=202)
@rate_limit("auth")
async def forgot_password(request: Request, body: ForgottenPassword, identity: App) -> Response:
    """Sends a link to this address if it is a user's. The answer, and the time that it takes, do not tell."""
    if sender_of(identity.settings) is None:
        raise ServiceUnavailableException("This installation cannot send messages: ask its administrator")
    if await identity.throttle.admit_message(body.email):
        # Whether there is such a user is found out by the worker, where nobody can measure it.
        async with identity.database.transaction() as session:
            await enqueue(session, send_password_reset, email=body.email)
    return respond(request, None, "If there is such an account, a message is on its way", status_code=202)


@router.post(
    "/reset",
    response_model=Envelope[None],
    responses={400: {"description": "The link is not valid any more"}},
)
@rate_limit("auth")
async def reset_password(
    request: Request, body: PasswordReset, identity: App, client: RequestClient
) -> Response:
    """Sets a new password with the token of the link; the user's sign-ins and API keys end, and providers are removed."""
    claims = recovery.read_token(identity.security.tokens, body.token)
    async with identity.database.transaction() as session:
        user = await recovery.user_of(session, claims)
    refuse_weak(body.new_password, own_words=(user.username, user.email))
    new_hash = await identity.security.passwords.hash_in_thread(body.new_password)
    async with identity.database.transaction() as session:
        await recovery.reset(session, user=user, new_hash=new_hash, client=client, now=identity.clock.now())
        identity.user_changed(session, int(claims["sub"]))
        await notify(session, identity.settings, "password_reset", to=user.email, username=user.username)
    response = respond(request, None, "Password set: sign in with it")
    # Who had the message is no guesser: this browser gets past the throttle.
    set_device_cookie(request, response, identity, user)
    return response
