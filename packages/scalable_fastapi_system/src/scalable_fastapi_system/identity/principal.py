"""Who a request is made by and what they may do: the principal, its role and its scopes.

A signed-in user may do all that their role allows. An API key, or a token made with a `scope` claim, may do only
what its scopes name. A route that names no scope is open to the unrestricted only, so that forgetting to name one
never widens a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from scalable_fastapi_system.identity.models import ROLE_ADMIN, ROLE_USER

ROLES = (ROLE_USER, ROLE_ADMIN)
EVERYTHING = "*"
ADMIN_PREFIX = "admin:"
# Only a person who is signed in may change how they sign in; no key can be given this.
ACCOUNT_MANAGE = "account:manage"
_SCOPE = re.compile(r"[a-z][a-z0-9_]*:(?:[a-z][a-z0-9_]*|\*)")
_MAX_SCOPE_LENGTH = 64

_catalogue: dict[str, str] = {}


def declare_scopes(scopes: Mapping[str, str]) -> None:
    """Makes scopes known, with what they allow, so that keys can be given them and OpenAPI describes them.

    Raises ValueError for a name that is not of the form `things:action`.
    """
    for name, description in scopes.items():
        if _SCOPE.fullmatch(name) is None or name.endswith("*") or len(name) > _MAX_SCOPE_LENGTH:
            raise ValueError(f"{name!r} is not a scope: it must look like 'things:read'")
        _catalogue[name] = description


def known_scopes() -> dict[str, str]:
    """Every declared scope and what it allows."""
    return dict(_catalogue)


def grantable_scopes() -> list[str]:
    """Everything that an API key may be given, sorted: the declared scopes, `things:*` of each kind, `*`."""
    kinds = {f"{scope.partition(':')[0]}:*" for scope in _catalogue}
    return sorted(scope for scope in {*_catalogue, *kinds, EVERYTHING} if is_grantable(scope))


def is_grantable(scope: str) -> bool:
    """Whether an API key may be given this: a declared scope, all of one kind of thing (`things:*`), or `*`."""
    if scope == EVERYTHING:
        return True
    if scope == ACCOUNT_MANAGE or _SCOPE.fullmatch(scope) is None:
        return False
    if scope.endswith(":*"):
        return any(known.startswith(scope[:-1]) for known in _catalogue if known != ACCOUNT_MANAGE)
    return scope in _catalogue


declare_scopes(
    {
        "profile:read": "Read your own user",
        "profile:write": "Change your own user",
        ACCOUNT_MANAGE: "Change address, password, sessions and API keys; for signed-in people, never for a key",
        "admin:users": "Read and change any user (administrators)",
        "admin:audit": "Read the audit log (administrators)",
    }
)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request. Has the members of a `User` that may be shown; holds no secret."""

    id: int
    username: str
    email: str
    role: str
    is_active: bool
    created_at: datetime
    updated_at: datetime
    kind: Literal["user", "api_key"] = "user"
    # None: everything that the role allows
    scopes: frozenset[str] | None = None
    session_id: UUID | None = None
    # When the token was made; None for an API key.
    issued_at: datetime | None = None
    api_key_id: UUID | None = None
    # What a rate limit counts by and the audit log names: `user:7` or `api_key:<id>`.
    key: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.key:
            name = f"api_key:{self.api_key_id}" if self.kind == "api_key" else f"user:{self.id}"
            object.__setattr__(self, "key", name)

    @property
    def is_admin(self) -> bool:
        """Whether the caller may act on everyone's things."""
        return self.role == ROLE_ADMIN and self.allows(("admin:users",))

    def allows(self, needed: Iterable[str]) -> bool:
        """Whether the caller may do what these scopes name; nothing named needs an unrestricted caller."""
        scopes = self.scopes
        is_named = False
        for scope in needed:
            is_named = True
            if scope.startswith(ADMIN_PREFIX) and self.role != ROLE_ADMIN:
                return False
            if scope == ACCOUNT_MANAGE and self.kind != "user":
                return False
            if scopes is None or scope in scopes or EVERYTHING in scopes:
                continue
            if f"{scope.partition(':')[0]}:*" not in scopes:
                return False
        return is_named or scopes is None or EVERYTHING in scopes

    def dict(self) -> dict[str, Any]:
        """What the caller may see of themselves, as plain values."""
        return {
            "id": self.id,
            "username": self.username,
            "email": self.email,
            "role": self.role,
            "is_active": self.is_active,
            "is_admin": self.role == ROLE_ADMIN,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }
