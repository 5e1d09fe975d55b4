"""The cookie by which a browser that has signed in before is told from a guesser; see `throttle`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from scalable_fastapi_system.identity.models import User
from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.identity.throttle import KNOWN_FOR

DEVICE_COOKIE = "known_device"


def set_device_cookie(request: Request, response: Response, identity: Identity, user: User) -> None:
    """Lets this browser be known as the user's."""
    assert user.id is not None  # noqa: S101 - it was read from the database
    mail = identity.settings.mail
    # The public URL may be that of a front end elsewhere, whose path says nothing about where people reach this service.
    path = mail.public_path if request.url.hostname == mail.public_host else ""
    response.set_cookie(
        DEVICE_COOKIE,
        identity.throttle.device_cookie(user.id, user.username, user.email),
        max_age=int(KNOWN_FOR.total_seconds()),
        path=f"{path}/auth",
        secure=identity.settings.is_production or request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
