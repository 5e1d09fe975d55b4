"""Rate limits on requests: the platform's admission, and the guide's middleware for applications of other make.

Counted by route template and identity. The identity is the signed-in user or the API key, else the client's address;
the policy `auth` counts by address always. A refused request is a 429 in the one shape of failures, with the IETF's
RateLimit fields and Retry-After. Nothing here fails because Redis does: see `infra.rate_limit`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.metrics import UNMATCHED
from scalable_fastapi_system.infra.rate_limit import Decision, Policies, Policy, RateLimiter, metrics
from scalable_fastapi_system.infra.rate_limit.policies import ANONYMOUS, class_of
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import Settings, load_settings
from scalable_fastapi_system.kit.errors import APIException, NotFoundException, RateLimitExceededException
from scalable_fastapi_system.web.client_address import ProxyTrust, client_address, rate_identity
from scalable_fastapi_system.web.problems import problem_response
from scalable_fastapi_system.web.route_table import RouteFacts, RouteTable, route_path

_log = structlog.get_logger("rate_limit")
RawHeaders = list[tuple[bytes, bytes]]
_COUNTED = "is_rate_counted"
_MAX_REMEMBERED = 10_000
_UNKNOWN_ROUTE = RouteFacts(UNMATCHED, None, default_body_limit_bytes=0, default_timeout_seconds=0.0)


class RateLimits:
    """Admits requests of one application, or raises RateLimitExceededException; the middleware's `Admission`."""

    def __init__(self, settings: Settings, redis: RedisConnections) -> None:
        """Raises ConfigurationError where a rate does not make sense. Connects to nothing yet."""
        self.policies = Policies(settings.rate_limit)
        self.limiter = RateLimiter(redis, store_timeout_seconds=settings.rate_limit.store_timeout_seconds)
        self._trust = ProxyTrust(settings.security.trusted_proxies)
        self._route_policies: dict[tuple[str, str, str | None], Policy | None] = {}

    def __call__(self, scope: Scope, facts: RouteFacts) -> RawHeaders | Awaitable[RawHeaders]:
        """The RateLimit fields for the answer; an awaitable of them only where Redis has to be asked."""
        policy, identity = self._who(scope, facts)
        decision = self.limiter.check(policy, identity, facts.template)
        scope["state"][_COUNTED] = True
        return _headers(decision) if isinstance(decision, Decision) else _later(decision)

    def check(self, scope: Scope, facts: RouteFacts) -> Decision | Awaitable[Decision]:
        """The decision itself, for those who answer by themselves.

        Raises ConfigurationError where the route is marked with a policy that there is not.
        """
        policy, identity = self._who(scope, facts)
        return self.limiter.check(policy, identity, facts.template)

    def check_routes(self, routes: Iterable[tuple[str, RouteFacts]]) -> None:
        """For the start: what would otherwise show at the first request.

        Raises ConfigurationError where a route is marked with a policy that there is not. A route that the settings
        limit and that does not exist is a warning: while a deploy rolls, one version has it and the other has not.
        """
        existing: set[str] = set()
        for method, facts in routes:
            self.policies.of_route(method, facts.template, facts.policy)
            existing |= {facts.template, f"{method} {facts.template}"}
        for route in self.policies.limited_routes - existing:
            _log.warning("RATE_LIMIT__ROUTES names a route that does not exist", route=route)

    async def stop(self) -> None:
        """Gives back what this process has leased. For its end."""
        await self.limiter.stop()

    def _who(self, scope: Scope, facts: RouteFacts) -> tuple[Policy, str]:
        state = scope["state"]
        principal = state.get("principal")
        if principal is not None:
            identity: str = principal.key
            name = class_of(kind=principal.kind, role=principal.role)
        else:
            # The credential is good, but whose it is has to be read again: it counts like the user's own requests.
            known: str | None = state.get("rate_key")
            identity = known or ""
            name = class_of(kind=known.partition(":")[0] if known else None, role=None)
        policy = self._policy_of_route(scope["method"], facts) or self.policies.of_class(name)
        if name == ANONYMOUS or policy.is_by_address:
            identity = rate_identity(client_address(scope, self._trust))
            if not policy.is_by_address and state.get("may_be_key"):
                identity = f"key {identity}"
        return policy, identity

    def _policy_of_route(self, method: str, facts: RouteFacts) -> Policy | None:
        key = (method, facts.template, facts.policy)  # the mark, too: a route may take the place of another
        try:
            return self._route_policies[key]
        except KeyError:
            found = self.policies.of_route(method, facts.template, facts.policy)
            if len(self._route_policies) < _MAX_REMEMBERED:  # methods are the client's to invent
                self._route_policies[key] = found
            return found


class RateLimitingMiddleware:
    """`app.add_middleware(RateLimitingMiddleware, cache_manager=…, settings=…)`, pure ASGI.

    An application of `create_app` limits already; there this one lets everything through, so that nothing counts twice.
    """

    def __init__(
        self,
        app: ASGIApp,
        cache_manager: CacheManager | None = None,
        settings: Settings | None = None,
        *,
        identify: Callable[[Scope], None] | None = None,
    ) -> None:
        """
        cache_manager: whose connections to Redis are used; else connections of its own.
        settings: read from the environment where None.
        identify: leaves the principal in `scope["state"]` before the request is counted. Without it, and without a
            layer around this one that does so, everyone is counted by address.
        """
        self.app = app
        settings = settings or load_settings()
        redis = RedisConnections(settings.redis) if cache_manager is None else cache_manager.redis
        self._limits = RateLimits(settings, redis) if settings.rate_limit.enabled else None
        self._identify = identify
        self._settings = settings
        self._routes: RouteTable | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._limits is None:
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        facts = self._facts(scope)
        if state.get(_COUNTED) or facts.is_probe:
            await self.app(scope, receive, send)
            return
        if self._identify is not None:
            self._identify(scope)
        decided = self._limits.check(scope, facts)
        decision = decided if isinstance(decided, Decision) else await decided
        state[_COUNTED] = True
        headers = decision.headers()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        error: APIException
        if not decision.is_allowed:
            metrics.refused.labels(decision.policy.name).inc()
            error = RateLimitExceededException()
        elif self._routes is not None and facts is self._routes.unreadable:
            # The application might run a route that was not found here, and whose policy has not been asked.
            error = NotFoundException("Not Found")
        else:
            await self.app(scope, receive, send_with_headers)
            return
        await problem_response(Request(scope), error)(scope, receive, send_with_headers)

    def _facts(self, scope: Scope) -> RouteFacts:
        owner = scope.get("app")
        if not isinstance(owner, FastAPI):
            return _UNKNOWN_ROUTE
        if self._routes is None:
            api = self._settings.api
            self._routes = RouteTable(
                owner, body_limit_bytes=api.max_body_bytes, timeout_seconds=api.request_timeout_seconds
            )
        facts, _ = self._routes.find(scope["method"], route_path(scope), scope)
        return facts


def _headers(decision: Decision) -> RawHeaders:
    headers = decision.headers()
    if decision.is_allowed:
        return headers
    metrics.refused.labels(decision.policy.name).inc()
    raise RateLimitExceededException(headers={name.decode(): value.decode() for name, value in headers})


async def _later(decision: Awaitable[Decision]) -> RawHeaders:
    return _headers(await decision)
