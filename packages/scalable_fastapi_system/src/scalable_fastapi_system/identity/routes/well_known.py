"""What other services need to verify this one's tokens."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from scalable_fastapi_system.identity.dependencies import App
from scalable_fastapi_system.web.envelope import JSON

router = APIRouter(tags=["auth"])

# Short enough that a key is known everywhere soon after it was published, see docs/security.md.
_CACHE_SECONDS = 60


class JsonWebKeySet(BaseModel):
    """Public keys (RFC 7517)."""

    keys: list[dict[str, Any]] = Field(description="Empty where tokens are signed with a shared secret.")


@router.get("/.well-known/jwks.json", response_model=JsonWebKeySet)
async def read_jwks(identity: App) -> Response:
    """The public keys that access tokens are verified with."""
    return JSON(
        identity.security.public_jwks(), headers={"cache-control": f"public, max-age={_CACHE_SECONDS}"}
    )
