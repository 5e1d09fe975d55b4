"""Signing in through an OpenID Connect provider: authorization code flow with PKCE, state and nonce.

The protocol's messages and the checks of the ID token are authlib's; keys and signatures are joserfc's. What is under
way lives in a signed cookie of the browser that began it, so any replica can take the answer. A provider that cannot be
reached or whose documents are not usable is a 503, an answer that does not hold is a 401, and neither says more to the
client.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from scalable_fastapi_system.identity.models import MAX_SUBJECT_LENGTH
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.identity.tokens import TokenIssuer, TokenType
from scalable_fastapi_system.infra.settings import OIDCProviderSettings, Settings
from scalable_fastapi_system.kit.errors import (
    AuthenticationException,
    NotFoundException,
    ServiceUnavailableException,
)
from scalable_fastapi_system.kit.texts import is_short_text

_log = structlog.get_logger("identity.oidc")

STATE_LIFETIME = timedelta(minutes=10)
_TIMEOUT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 512 * 1024
_METADATA_SECONDS = 3600.0
# An unknown key makes us look for new ones, but not at the pace of whoever sends unknown keys.
_KEYS_AT_MOST_EVERY_SECONDS = 10.0
_CLOCK_SKEW_SECONDS = 60
# Asymmetric only: a provider's client secret must never be able to make an ID token.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where to send the browser, and the cookie that it must bring back."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Link:
    """To whose account an identity shall be added, and in which of their sign-ins, by a token of when, that was begun."""

    user_id: int
    session_id: UUID | None
    since: datetime


@dataclass(frozen=True, slots=True)
class ProvenIdentity:
    """Who the provider says this is."""

    issuer: str
    subject: str
    email: str | None
    is_email_verified: bool
    preferred_username: str | None
    link: Link | None


class OIDCClient:
    """One provider, as this service deals with it."""

    def __init__(
        self, name: str, provider: OIDCProviderSettings, *, redirect_uri: str, tokens: TokenIssuer
    ) -> None:
        self._name = name
        self._provider = provider
        self._redirect_uri = redirect_uri
        self._tokens = tokens
        self._metadata: dict[str, Any] = {}
        self._metadata_at = float("-inf")
        self._keys: KeySet | None = None
        self._keys_at = float("-inf")

    async def begin(self, *, link_to: Principal | None = None) -> Beginning:
        """The start of a sign-in. link_to: the signed-in user to whom the identity shall be added."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        metadata = await self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(length) for length in (24, 24, 48))
        url = prepare_grant_uri(
            metadata["authorization_endpoint"],
            self._provider.client_id,
            "code",
            redirect_uri=self._redirect_uri,
            scope=self._provider.scopes,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        claims: dict[str, Any] = {"sub": self._name, "state": state, "nonce": nonce, "verifier": verifier}
        if link_to is not None:
            claims["link"] = str(link_to.id)
            if link_to.session_id is not None:
                claims["sid"] = str(link_to.session_id)
            if link_to.issued_at is not None:
                claims["since"] = link_to.issued_at.timestamp()
        cookie = self._tokens.issue(TokenType.OIDC_STATE, claims, lifetime=STATE_LIFETIME)
        return Beginning(str(url), cookie)

    async def finish(self, *, cookie: str, state: str, code: str, issuer: str | None) -> ProvenIdentity:
        """Who came back. Raises AuthenticationException where anything about it is not as it was begun."""
        begun = self._tokens.verify(TokenType.OIDC_STATE, cookie)
        if begun["sub"] != self._name or not hmac.compare_digest(begun["state"].encode(), state.encode()):
            raise AuthenticationException("This sign-in was not begun here")
        metadata = await self._discover()
        # RFC 9207, mix-up: an answer without a name is not of a provider that promises to name itself.
        is_promised = metadata.get("authorization_response_iss_parameter_supported") is True
        if (is_promised or issuer is not None) and issuer != metadata["issuer"]:
            raise AuthenticationException("The answer is another provider's")
        answer = await self._exchange(metadata, code=code, verifier=begun["verifier"])
        claims = await self._check_id_token(metadata, answer, nonce=begun["nonce"])
        if "email" not in claims and metadata.get("userinfo_endpoint") is not None:
            claims = {**await self._user_info(metadata, answer, claims["sub"]), **claims}
        return ProvenIdentity(
            issuer=metadata["issuer"],
            subject=claims["sub"],
            email=claims.get("email") if isinstance(claims.get("email"), str) else None,
            is_email_verified=claims.get("email_verified") is True,
            preferred_username=claims.get("preferred_username")
            if isinstance(claims.get("preferred_username"), str)
            else None,
            link=_link_of(begun),
        )

    # -- the provider ---------------------------------------------------------------------------------------

    async def _discover(self) -> dict[str, Any]:
        if time.monotonic() - self._metadata_at < _METADATA_SECONDS:
            return self._metadata
        from authlib.oidc.discovery import get_well_known_url

        url = get_well_known_url(self._provider.issuer, external=True)
        metadata = await self._fetch("GET", url)
        problem = _problem_of(metadata, self._provider.issuer)
        if problem is not None:
            _log.error("the provider's metadata is not usable", provider=self._name, problem=problem)
            raise self._away()
        self._metadata, self._metadata_at = metadata, time.monotonic()
        return metadata

    async def _exchange(self, metadata: dict[str, Any], *, code: str, verifier: str) -> dict[str, Any]:
        from authlib.oauth2.auth import ClientAuth
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        offered = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        client_id, secret = self._provider.client_id, self._provider.client_secret
        if secret is None:
            method = "none"
        elif "client_secret_basic" in offered:
            method = "client_secret_basic"
            # RFC 6749, section 2.3.1, which authlib leaves out. A blank as %20: not every provider takes `+` for one.
            client_id, secret = quote(client_id, safe=""), quote(secret, safe="")
        else:
            method = "client_secret_post"
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        auth = ClientAuth(client_id, secret, method)
        url, headers, body = auth.prepare("POST", metadata["token_endpoint"], headers, body)
        return await self._fetch("POST", url, may_refuse=True, headers=headers, content=body)

    async def _check_id_token(
        self, metadata: dict[str, Any], answer: dict[str, Any], *, nonce: str
    ) -> dict[str, Any]:
        from authlib.oidc.core.claims import CodeIDToken

        text, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(text, str):
            raise AuthenticationException("The provider told nobody's identity")
        decoded = await self._decode(metadata, text)
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            options={
                "iss": {"essential": True, "value": metadata["issuer"]},
                "aud": {"essential": True, "value": self._provider.client_id},
                "sub": {"essential": True},
            },
            params={"nonce": nonce, "client_id": self._provider.client_id, "access_token": access_token},
        )
        try:
            claims.validate(leeway=_CLOCK_SKEW_SECONDS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise self._refused(error) from error
        if not is_short_text(claims["sub"], MAX_SUBJECT_LENGTH):
            raise self._refused(ValueError("sub"))
        return dict(claims)

    async def _decode(self, metadata: dict[str, Any], text: str) -> jwt.Token:
        keys = await self._key_set(metadata)
        try:
            return jwt.decode(text, keys, algorithms=_ALGORITHMS)
        except (JoseError, ValueError, TypeError) as error:
            renewed = await self._key_set(metadata, is_stale=True)
            if renewed is keys:
                raise self._refused(error) from error
        try:
            return jwt.decode(text, renewed, algorithms=_ALGORITHMS)
        except (JoseError, ValueError, TypeError) as error:
            raise self._refused(error) from error

    async def _key_set(self, metadata: dict[str, Any], *, is_stale: bool = False) -> KeySet:
        age_seconds = time.monotonic() - self._keys_at
        wanted_after = _KEYS_AT_MOST_EVERY_SECONDS if is_stale else _METADATA_SECONDS
        if self._keys is None or age_seconds >= wanted_after:
            document = await self._fetch("GET", metadata["jwks_uri"])
            self._keys = self._understood(document)
            self._keys_at = time.monotonic()
        return self._keys

    def _understood(self, document: dict[str, Any]) -> KeySet:
        """The keys of a JWK set but for those of a kind that is not known here (RFC 7517, section 5)."""
        published = document.get("keys")
        keys: list[Key] = []
        problems: set[str] = set()
        for key in published if isinstance(published, list) else []:
            try:
                keys.append(JWKRegistry.import_key(key))
            except (JoseError, ValueError, TypeError, KeyError) as error:
                problems.add(type(error).__name__)
        if not keys:
            _log.error("the provider's keys are not usable", provider=self._name, problems=sorted(problems))
            raise self._away()
        if problems:
            _log.warning(
                "keys of the provider are passed over",
                provider=self._name,
                problems=sorted(problems),
                understood=len(keys),
            )
        return KeySet(keys)

    async def _user_info(
        self, metadata: dict[str, Any], answer: dict[str, Any], subject: str
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {answer.get('access_token', '')}", "Accept": "application/json"}
        info = await self._fetch("GET", metadata["userinfo_endpoint"], may_refuse=True, headers=headers)
        # OpenID Connect Core, section 5.3.2: an answer about somebody else must not be used.
        return info if info.get("sub") == subject else {}

    async def _fetch(
        self, method: str, url: str, *, may_refuse: bool = False, **options: Any
    ) -> dict[str, Any]:
        """The JSON object at a URL of the provider. Raises ServiceUnavailableException.

        may_refuse: it is asked about this sign-in, so a 4xx is its answer to that: raises AuthenticationException.
        """
        try:
            async with (
                httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, follow_redirects=False) as client,
                client.stream(method, url, **options) as response,
            ):
                raw = b""
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > _MAX_ANSWER_BYTES:
                        raise ValueError("too long")
            document = json.loads(raw)
            if not isinstance(document, dict):
                raise TypeError("not an object")
        except (httpx.HTTPError, ValueError, TypeError, RecursionError) as error:
            _log.warning(
                "the provider does not answer as it should", provider=self._name, problem=type(error).__name__
            )
            raise self._away() from error
        if response.is_success:
            return document
        _log.warning(
            "the provider refuses",
            provider=self._name,
            status=response.status_code,
            error=document.get("error"),
        )
        if may_refuse and response.is_client_error:
            raise AuthenticationException("The provider did not confirm this sign-in")
        raise self._away()

    def _refused(self, error: Exception) -> AuthenticationException:
        _log.warning("an ID token does not hold", provider=self._name, problem=type(error).__name__)
        return AuthenticationException("The provider did not confirm this sign-in")

    def _away(self) -> ServiceUnavailableException:
        return ServiceUnavailableException(f"Signing in with {self._name} is not possible at the moment")


def _problem_of(metadata: dict[str, Any], issuer: str) -> str | None:
    if metadata.get("issuer") != issuer:
        return "it names another issuer"
    scheme = urlsplit(issuer).scheme
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not _is_url(metadata.get(name), {scheme, "https"}):
            return f"{name} is missing or no {scheme} URL"
    userinfo = metadata.get("userinfo_endpoint")
    if userinfo is not None and not _is_url(userinfo, {scheme, "https"}):
        return f"userinfo_endpoint is no {scheme} URL"
    if not isinstance(metadata.get("token_endpoint_auth_methods_supported"), list | None):
        return "token_endpoint_auth_methods_supported is no list"
    return None


def _is_url(value: Any, schemes: set[str]) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        httpx.URL(value)  # raises for some that the standard library takes
        # An unusable port raises when it is asked for.
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except (httpx.InvalidURL, ValueError):
        return False


def _link_of(begun: dict[str, Any]) -> Link | None:
    if "link" not in begun:
        return None
    return Link(
        user_id=int(begun["link"]),
        session_id=UUID(begun["sid"]) if "sid" in begun else None,
        # A cookie of the version before tells when it was made itself.
        since=datetime.fromtimestamp(begun.get("since", begun["iat"]), UTC),
    )


class OIDCClients:
    """The configured providers by name."""

    def __init__(self, settings: Settings, tokens: TokenIssuer) -> None:
        base = settings.mail.public_url
        self._clients = {
            name: OIDCClient(name, provider, redirect_uri=f"{base}/auth/oidc/{name}/callback", tokens=tokens)
            for name, provider in settings.oidc.providers.items()
        }

    @property
    def names(self) -> list[str]:
        """The providers that people may sign in with."""
        return sorted(self._clients)

    def get(self, name: str) -> OIDCClient:
        """The provider of this name. Raises NotFoundException."""
        found = self._clients.get(name)
        if found is None:
            raise NotFoundException("There is no such provider")
        return found
