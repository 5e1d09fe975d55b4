"""The cookie by which a browser that has signed in before is told from a guesser; see `throttle`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from scalable_fastapi_system.identity.runtime import Identity

DEVICE_COOKIE = "known_device"
_LIFETIME_SECONDS = 365 * 24 * 3600


def set_device_cookie(request: Request, response: Response, identity: Identity, *identifiers: str) -> None:
    """Lets this browser be known to the names and addresses given."""
    response.set_cookie(
        DEVICE_COOKIE,
        identity.throttle.device_cookie(*identifiers),
        max_age=_LIFETIME_SECONDS,
        path="/auth",
        secure=identity.settings.is_production or request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
