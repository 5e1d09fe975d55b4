"""What endpoints ask for: who is calling.

`Depends(get_current_active_user)` as in the guide, `CurrentUser` for short, `Security(get_current_active_user,
scopes=[…])` or `requires("things:read")` where keys with scopes may call too. All of them read the principal that the
middleware has already found; where it has not, they ask the database once.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of `__call__` on an instance as they are.

from typing import Annotated, Any

from fastapi import Depends, Security
from fastapi.openapi.models import OAuth2 as OAuth2Model
from fastapi.openapi.models import OAuthFlowPassword, OAuthFlows
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from scalable_fastapi_system.identity.audit import Client
from scalable_fastapi_system.identity.models import ROLE_ADMIN
from scalable_fastapi_system.identity.principal import (
    ACCOUNT_MANAGE,
    ADMIN_PREFIX,
    Principal,
    grantable_scopes,
    known_scopes,
)
from scalable_fastapi_system.identity.runtime import Identity, identity_of
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.kit.errors import AuthenticationException, AuthorizationException
from scalable_fastapi_system.web.dependencies import get_resources
from scalable_fastapi_system.web.envelope import request_id_of

BEARER_SCHEME = "BearerToken"
API_KEY_SCHEME = "ApiKey"
_MAX_USER_AGENT_CHARACTERS = 200


def get_identity(connection: HTTPConnection) -> Identity:
    """The identity of the application that this request reached, or of `get_resources` where that has none of its own."""
    state = connection.app.state
    found: Identity | None = getattr(state, "identity", None)
    if found is None:
        resources = get_resources(connection)
        kept: tuple[Resources, Identity] | None = getattr(state, "identity_of_resources", None)
        if kept is None or kept[0] is not resources:  # a mounted application may outlive the one around it
            kept = state.identity_of_resources = (resources, identity_of(resources))
        found = kept[1]
    return found


def get_client(connection: HTTPConnection) -> Client:
    """Where this request came from."""
    scope = connection.scope
    address = (scope.get("state") or {}).get("client_address")
    if address is None and scope.get("client"):
        address = scope["client"][0]
    agent = connection.headers.get("user-agent", "")
    shown = "".join(letter for letter in agent[:_MAX_USER_AGENT_CHARACTERS] if letter.isprintable())
    return Client(address=address, user_agent=shown or None, request_id=request_id_of(connection))


class _CurrentUser(SecurityBase):
    """A dependency that gives the caller and tells OpenAPI how callers say who they are."""

    def __init__(self, *, is_active: bool) -> None:
        self._must_be_active = is_active
        self.scheme_name = BEARER_SCHEME

    @property
    def model(self) -> OAuth2Model:  # type: ignore[override]
        """The scheme as OpenAPI describes it, with every scope that is known by now."""
        flow = OAuthFlowPassword(tokenUrl="/auth/login", refreshUrl="/auth/refresh", scopes=known_scopes())
        return OAuth2Model(
            flows=OAuthFlows(password=flow),
            description="An access token of /auth/login, or an API key, as `Authorization: Bearer …`.",
        )

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        """The caller. Raises AuthenticationException (401) or AuthorizationException (403)."""
        state: dict[str, Any] = connection.scope.get("state") or {}
        principal: Principal | None = state.get("principal")
        if principal is None:
            headers = connection.headers
            authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
            principal = await get_identity(connection).authenticator.authenticate(
                None if authorization is None else authorization.encode("latin-1"),
                None if api_key is None else api_key.encode("latin-1"),
            )
            state["principal"] = principal
        if self._must_be_active:
            if not principal.is_active:
                raise AuthenticationException("This account is disabled")
            if (principal.scopes is not None or security_scopes.scopes) and not principal.allows(
                security_scopes.scopes
            ):
                raise AuthorizationException(_needs(security_scopes.scopes))
        return principal


def _needs(scopes: list[str]) -> str:
    if not scopes:
        return "An API key with limited scopes cannot be used here"
    return f"This needs the scope {' '.join(scopes)}"


get_current_user = _CurrentUser(is_active=False)
get_current_active_user = _CurrentUser(is_active=True)

CurrentUser = Annotated[Principal, Depends(get_current_active_user)]
AdminUser = Annotated[Principal, Security(get_current_active_user, scopes=["admin:users"])]


# FastAPI sends a dependency that is not `async` to a thread, at each request.
async def provide_identity(connection: HTTPConnection) -> Identity:
    """`get_identity` as a dependency."""
    return get_identity(connection)


async def provide_client(connection: HTTPConnection) -> Client:
    """`get_client` as a dependency."""
    return get_client(connection)


App = Annotated[Identity, Depends(provide_identity)]
RequestClient = Annotated[Client, Depends(provide_client)]


def requires(*scopes: str) -> Any:
    """`Annotated[Principal, requires("things:read")]`: the caller, who must hold these scopes."""
    return Security(get_current_active_user, scopes=list(scopes))


async def get_optional_user(connection: HTTPConnection) -> Principal | None:
    """The caller, None where no credential was sent. A bad credential is still refused."""
    if "authorization" not in connection.headers and "x-api-key" not in connection.headers:
        return None
    return await get_current_active_user(connection, SecurityScopes(["profile:read"]))


OptionalUser = Annotated[Principal | None, Depends(get_optional_user)]


def describe_api_keys(schema: dict[str, Any]) -> None:
    """Writes into an OpenAPI document that an API key may stand wherever a bearer token may, and what it may do."""
    schemes = schema.get("components", {}).get("securitySchemes", {})
    if BEARER_SCHEME not in schemes:
        return
    schemes[API_KEY_SCHEME] = {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key of /api-keys. It may do what its scopes name.",
    }
    wanted = schema.get("components", {}).get("schemas", {}).get("ApiKeyCreate")
    if wanted is not None:
        wanted["properties"]["scopes"]["items"]["enum"] = grantable_scopes()
    for operations in schema.get("paths", {}).values():
        for operation in operations.values():
            security: list[dict[str, list[str]]] = operation.get("security", [])
            named = [entry[BEARER_SCHEME] for entry in security if BEARER_SCHEME in entry]
            if named and ACCOUNT_MANAGE not in named[0]:
                security.append({API_KEY_SCHEME: named[0]})
            if named:
                _describe_scopes(operation, named[0])


def _describe_scopes(operation: dict[str, Any], scopes: list[str]) -> None:
    if any(scope.startswith(ADMIN_PREFIX) for scope in scopes):
        operation["x-required-roles"] = [ROLE_ADMIN]
    if scopes:
        operation["x-required-scopes"] = scopes
