"""Identity's background work: messages to users, and clearing away sign-ins that ended long ago.

Run by the worker; imports nothing of the web.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.mail import Message, sender_of
from scalable_fastapi_system.identity.repository import sessions, users
from scalable_fastapi_system.identity.service import recovery
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs.context import JobContext
from scalable_fastapi_system.jobs.enqueueing import enqueue
from scalable_fastapi_system.jobs.registry import job
from scalable_fastapi_system.jobs.schedules import cron
from scalable_fastapi_system.kit.clock import utc_now

# Longer than any sign-in lasts is not needed: a family proves a theft only while it goes on.
_KEEP_ENDED = timedelta(days=30)

Notice = Literal[
    "email_changed",
    "password_changed",
    "password_reset",
    "api_key_added",
    "identity_added",
    "refresh_token_reused",
]
_NOTICES: dict[str, tuple[str, str]] = {
    "email_changed": (
        "Your address was changed",
        "The address of your account {username} was changed; messages go to the new one from now on.",
    ),
    "password_changed": (
        "Your password was changed",
        "The password of your account {username} was changed, and your other sign-ins have ended.",
    ),
    "password_reset": (
        "Your password was changed",
        "The password of your account {username} was set by a link. Its sign-ins and API keys have ended.",
    ),
    "api_key_added": (
        "An API key was added to your account",
        "An API key was made that acts for your account {username}.",
    ),
    "identity_added": (
        "A provider was added to your account",
        "Your account {username} can be signed in to through another provider from now on.",
    ),
    "refresh_token_reused": (
        "One of your sign-ins was ended",
        "A sign-in of your account {username} was used from two places, as if it had been copied. It has ended.",
    ),
}
_IF_NOT_YOU = "If that was not you, set a new password now: {url}"


@job("identity.password_reset", max_attempts=8)
async def send_password_reset(ctx: JobContext, *, email: str) -> None:
    """Sends a reset link to this address if it is an active user's; the request knows nothing of whether it is."""
    settings = ctx.resources.settings
    async with ctx.resources.database.transaction() as session:
        user = await users.find(session, email)
    sender = sender_of(settings)
    if user is None or not user.is_active or sender is None:
        return
    token = recovery.make_token(settings.security, user)
    minutes = settings.security.password_reset_minutes
    await sender.send(
        Message(
            to=user.email,
            subject="Set a new password",
            text=f"Someone, probably you, asked for a new password for {user.username}.\n\n"
            f"{settings.mail.public_url}/auth/password/reset#token={token}\n\n"
            f"The link works once and for {minutes} minutes. If it was not you, there is nothing to do.",
        )
    )


@job("identity.notice", max_attempts=8)
async def send_notice(ctx: JobContext, *, kind: Notice, to: str, username: str) -> None:
    """Tells a user that something about their account has changed."""
    sender = sender_of(ctx.resources.settings)
    if sender is None:
        return
    subject, text = _NOTICES[kind]
    advice = _IF_NOT_YOU.format(url=f"{ctx.resources.settings.mail.public_url}/auth/password/forgot")
    await sender.send(Message(to=to, subject=subject, text=f"{text.format(username=username)}\n\n{advice}"))


@cron("17 3 * * *")
@job("identity.clean_up")
async def clean_up(ctx: JobContext) -> dict[str, int]:
    """Removes sign-ins whose absolute end is a month ago."""
    async with ctx.resources.database.transaction() as session:
        return {"sessions": await sessions.delete_ended(session, utc_now() - _KEEP_ENDED)}


async def notify(session: AsyncSession, settings: Settings, kind: Notice, *, to: str, username: str) -> None:
    """Has a notice sent once the transaction is committed; nothing where there is no way to send one."""
    if sender_of(settings) is not None:
        await enqueue(session, send_notice, kind=kind, to=to, username=username)
