"""Who calls and what they may do, as one text: two callers have the same only where they may do the same."""

from __future__ import annotations

from starlette.types import Scope

from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.kit.errors import AuthenticationException


async def authority_of(identity: Identity, scope: Scope) -> str | None:
    """The caller of a request with their role and scopes; None where nobody known, or nobody active, calls.

    Raises ServiceUnavailableException where the database is needed for it and away.
    """
    state = scope["state"]
    principal = state.get("principal")
    if principal is None:
        headers = dict(scope["headers"])
        authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
        if authorization is None and api_key is None:
            return None
        try:
            principal = await identity.authenticator.authenticate(authorization, api_key)
        except AuthenticationException:
            return None  # the endpoint says so, if it wants to know
        state["principal"] = principal
    if not principal.is_active:
        return None
    scopes = "*" if principal.scopes is None else " ".join(sorted(principal.scopes))
    return f"{principal.key} {principal.role} {scopes}"
