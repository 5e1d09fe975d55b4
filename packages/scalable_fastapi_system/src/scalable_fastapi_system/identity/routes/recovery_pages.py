"""The two pages that links in messages lead to, for a deployment without a front end of its own.

Each is whole in itself, for its policy names the one style and the one script that may be in it by their hashes. The
token stands in the link's fragment, which no browser sends: neither a log nor a proxy sees it.
"""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

from scalable_fastapi_system.identity.dependencies import App
from scalable_fastapi_system.identity.password_policy import LONG_ENOUGH_LENGTH, MIN_LENGTH
from scalable_fastapi_system.identity.runtime import Identity

# Under no policy of their own: a look at a page must not use up the tries that its form needs.
router = APIRouter(prefix="/auth/password", tags=["auth"], default_response_class=HTMLResponse)

_FILES = Path(__file__).parent.parent / "pages"


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _read("style.css"), _read("script.js")
_HEADERS = {
    "content-security-policy": f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cache-control": "no-store",
    "x-robots-tag": "noindex",
}


def _prepare(name: str) -> str:
    page = _read(name).replace("{long}", str(LONG_ENOUGH_LENGTH)).replace("{short}", str(MIN_LENGTH))
    return page.replace("{style}", _STYLE).replace("{script}", _SCRIPT)


_FORGOT, _RESET = _prepare("forgot.html"), _prepare("reset.html")


@router.get("/forgot")
@router.head("/forgot", include_in_schema=False)
async def forgot_page(identity: App) -> Response:
    """Asks for an address and posts it."""
    return _answer(_FORGOT, identity)


@router.get("/reset")
@router.head("/reset", include_in_schema=False)
async def reset_page(identity: App) -> Response:
    """Takes the token from the address, asks for the new password and posts both."""
    return _answer(_RESET, identity)


def _answer(page: str, identity: Identity) -> Response:
    return HTMLResponse(page.replace("{title}", html.escape(identity.settings.api.title)), headers=_HEADERS)
