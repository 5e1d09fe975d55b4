"""Finds the route of a request once: its template and marks for the middleware, and the endpoint itself.

Static paths are one dictionary look-up. Paths with parameters are tried against the few templates that share
all segments before their first parameter, so the cost does not grow with the number of routes, not even where
all begin with `/api/v1`; of several that fit, the one registered first is taken. FastAPI's own router asks every
route in turn, twice for those of an included router; it still has the last word on everything that is not a
plain match: 404, 405, mounts, websockets, applications under a root path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter, itemgetter
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIRouter, _IncludedRouter, iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Scope

from scalable_fastapi_system.infra.metrics import UNMATCHED
from scalable_fastapi_system.web.limits import (
    BODY_LIMIT_ATTRIBUTE,
    POLICY_ATTRIBUTE,
    SECRETS_ATTRIBUTE,
    TIMEOUT_ATTRIBUTE,
)

EVENTS = "text/event-stream"
# By their whole paths: a product may have /health_records.
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
_UNSET: Any = object()
# When it was registered, what it fits, and its methods and facts.
_Template = tuple[int, re.Pattern[str], frozenset[str], "RouteFacts"]
_NONE: list[_Template] = []
_by_order = itemgetter(0)
_version = attrgetter("_routes_version")  # which a router counts up with each route that it is given


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Every method that some route takes on this path, sorted: the `Allow` of a 405 (RFC 9110 section 15.5.6).

    The router knows only the first route that fits the path, and several may share it.
    """
    found: set[str] = set()
    for context in iter_route_contexts(app.router.routes):
        pattern = getattr(context, "path_regex", None)
        if pattern is not None and pattern.match(path) is not None:
            found.update(context.methods or ())
    return sorted(found)


def route_path(scope: Scope) -> str:
    """The path that routes are declared by: without the `root_path` of a server or a mount, where it begins with that."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


class RouteFacts:
    """One route as the middleware sees it. `timeout_seconds` is None where there is no limit."""

    __slots__ = (
        "body_limit_bytes",
        "carries_secrets",
        "convertors",
        "endpoint",
        "endpoint_app",
        "is_probe",
        "is_stream",
        "methods",
        "policy",
        "route",
        "template",
        "timeout_seconds",
    )

    def __init__(
        self, template: str, endpoint: Any, *, default_body_limit_bytes: int, default_timeout_seconds: float
    ) -> None:
        self.template = template
        self.body_limit_bytes: int = getattr(endpoint, BODY_LIMIT_ATTRIBUTE, default_body_limit_bytes)
        timeout = getattr(endpoint, TIMEOUT_ATTRIBUTE, _UNSET)
        self.timeout_seconds: float | None = default_timeout_seconds if timeout is _UNSET else timeout
        self.policy: str | None = getattr(endpoint, POLICY_ATTRIBUTE, None)
        self.carries_secrets: bool = getattr(endpoint, SECRETS_ATTRIBUTE, False)
        self.endpoint = endpoint
        self.methods: frozenset[str] = frozenset()
        self.route: Any = None
        self.endpoint_app: ASGIApp | None = None
        self.convertors: dict[str, Any] = {}
        self.is_stream = False  # of events, as the route declares
        # Probes and scrapes are answered however full the process is.
        self.is_probe = template in PROBES


class RouteTable:
    """Finds the facts of a route by method and path. Built from the application, again when its routes change."""

    def __init__(self, app: FastAPI, *, body_limit_bytes: int, timeout_seconds: float) -> None:
        self._app = app
        self._body_limit_bytes = body_limit_bytes
        self._timeout_seconds = timeout_seconds
        self.unmatched = self._facts(UNMATCHED, None)
        # Of a path that the router must not be asked for: it ends in a newline, and the router would run a route that has not
        # been found here, without its marks; or it fits a template, its parameters are none, and the router fails.
        self.unreadable = self._facts(UNMATCHED, None)
        # What tells that routes were added, taken away or replaced, also in an included router: two comparisons in C, where
        # FastAPI's own count of it is a walk in Python.
        self._routes: list[BaseRoute] | None = None
        self._routers: tuple[APIRouter, ...] = ()
        self._versions = 0
        self._static: dict[str, dict[str, RouteFacts]] = {}
        self._dynamic: dict[str, list[_Template]] = {}
        self._most_segments = 0

    def find(self, method: str, path: str) -> tuple[RouteFacts, dict[str, Any] | None]:
        """The facts of the route for this request, and its path's parameters.

        The parameters are None where the router has to decide: no route fits the path, or none its method.
        """
        if self._app.router.routes != self._routes or sum(map(_version, self._routers)) != self._versions:
            self._build()
        by_method = self._static.get(path)
        if by_method is not None:
            facts = by_method.get(method)
            if facts is not None:
                return facts, {} if facts.endpoint_app is not None else None
        if path[-1:] == "\n":  # before which the `$` of the router's patterns matches, too
            return self.unreadable, None
        other: RouteFacts | None = next(iter(by_method.values())) if by_method else None
        other_found: re.Match[str] | None = None
        for _, pattern, methods, facts in self._candidates(path):
            found = pattern.match(path)
            if found is None:
                continue
            if method in methods:
                parameters = _parameters(facts, found)
                if parameters is None:
                    return self.unreadable, None
                return facts, parameters if facts.endpoint_app is not None else None
            if other is None:
                other, other_found = facts, found  # the path exists: a 405 belongs to its route
        if other is None:
            return self.unmatched, None
        if other_found is not None and _parameters(other, other_found) is None:
            return self.unreadable, None
        return other, None

    def prepare(self) -> Iterator[tuple[str, RouteFacts]]:
        """Builds the table; method and facts of every route in it."""
        self._build()
        for by_method in self._static.values():
            yield from by_method.items()
        for templates in self._dynamic.values():
            for _, _, methods, facts in templates:
                yield from ((method, facts) for method in methods)

    def _candidates(self, path: str) -> list[_Template]:
        """The templates that agree with the path up to their first parameter, in the order of registration."""
        found = self._dynamic.get("", _NONE)
        end = 0
        for _ in range(self._most_segments):  # however many the path has
            end = path.find("/", end + 1)
            more = self._dynamic.get(path if end < 0 else path[:end])
            if more is not None:
                found = sorted((*found, *more), key=_by_order) if found else more
            if end < 0:
                break
        return found

    def _facts(self, template: str, endpoint: Any) -> RouteFacts:
        return RouteFacts(
            template,
            endpoint,
            default_body_limit_bytes=self._body_limit_bytes,
            default_timeout_seconds=self._timeout_seconds,
        )

    def _build(self) -> None:
        router = self._app.router
        self._routes = list(router.routes)
        self._routers = tuple(_routers(router))
        self._versions = sum(map(_version, self._routers))
        self._static, self._dynamic = {}, {}
        for order, context in enumerate(iter_route_contexts(self._app.router.routes)):
            template, endpoint = context.path, context.endpoint
            pattern = getattr(context, "path_regex", None)
            if template is None or endpoint is None or pattern is None:
                continue  # mounts and the like measure as unmatched
            methods = frozenset(context.methods or ())
            facts = self._facts(template, endpoint)
            facts.methods = methods
            facts.convertors = context.param_convertors
            route = context.original_route
            if isinstance(route, APIRoute):
                facts.route = route
                facts.is_stream = _declares_events(route)
                facts.endpoint_app = context.app  # built for this inclusion, with its dependencies
            if "{" not in template:
                for method in methods:
                    self._static.setdefault(template, {}).setdefault(method, facts)
                continue
            prefix = template.partition("{")[0].rpartition("/")[0]
            self._dynamic.setdefault(prefix, []).append((order, pattern, methods, facts))
        self._most_segments = max((prefix.count("/") for prefix in self._dynamic), default=0)


def _routers(router: APIRouter) -> Iterator[APIRouter]:
    """This one, and those that it includes, and so on."""
    yield router
    for route in router.routes:
        if isinstance(route, _IncludedRouter):
            yield from _routers(route.original_router)


def _declares_events(route: APIRoute) -> bool:
    """Whether the route says, by its `response_class` or its `responses`, that it answers with server-sent events."""
    if getattr(route.response_class, "media_type", None) == EVENTS:
        return True
    return any(EVENTS in answer.get("content", ()) for answer in route.responses.values())


def _parameters(facts: RouteFacts, found: re.Match[str]) -> dict[str, Any] | None:
    """The path's parameters; None where they cannot be read, such as a number of more digits than Python takes."""
    convertors = facts.convertors
    try:
        return {name: convertors[name].convert(text) for name, text in found.groupdict().items()}
    except ValueError:
        return None
