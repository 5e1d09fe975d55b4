"""Finds the route of a request once: its template and marks for the middleware, and the endpoint itself.

Of several routes that fit, the one registered first is taken, as FastAPI's own router does: which of the two runs
the endpoint depends on what else there is (a layer of the product's, a root path), and the marks must be those of
the route that runs. Static paths to which nothing registered earlier lays claim are one dictionary look-up. Others
are tried against the few templates that share all segments before their first parameter, so the cost does not grow
with the number of routes, not even where all begin with `/api/v1`. FastAPI's router asks every route in turn, twice
for those of an included router; it still has the last word on everything that is not a plain match: 404, 405,
mounts, websockets, applications under a root path, routes of classes that match or handle in a way of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from fastapi import FastAPI
from fastapi.routing import (
    _FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY,
    _FASTAPI_SCOPE_KEY,
    APIRoute,
    APIRouter,
    APIWebSocketRoute,
    _EffectiveRouteContext,
    _IncludedRouter,
    iter_route_contexts,
)
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
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
_Ask = Callable[[Scope], Match]
# When a route was registered, what it fits, its methods (None: all), its facts, and what is to be asked whether it matches,
# where path and method alone do not tell.
_Entry = tuple[int, re.Pattern[str], frozenset[str] | None, "RouteFacts", _Ask | None]
_NONE: list[_Entry] = []
_NOTHING = re.compile("(?!)")
# The ways to match that this table knows: by pattern and method, and not a request at all.
_BY_PATTERN = (APIRoute.matches, Route.matches, Mount.matches)
_NO_REQUESTS = (APIWebSocketRoute.matches, WebSocketRoute.matches)
_DOORS = (APIRouter.matches, APIRouter.handle)
# Where FastAPI leaves in a request's scope what an inclusion made of a route.
_FASTAPI, _CONTEXT = _FASTAPI_SCOPE_KEY, _FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY
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
        "form_limits",
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
        self.form_limits: Any = None  # of the routers around the route
        self.convertors: dict[str, Any] = {}
        self.is_stream = False  # of events, as the route declares
        # Probes and scrapes are answered however full the process is.
        self.is_probe = template in PROBES


class RouteTable:
    """Finds the facts of a route by method and path. Built from the application, again when its routes change.

    Not noticed is a route that was put by hand in the place of one with the same path, endpoint and methods.
    """

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
        self._facts_of_all: list[RouteFacts] = []
        self._exact: dict[str, list[_Entry]] = {}  # by the one path that they fit
        self._others: dict[str, list[_Entry]] = {}  # by all segments that whatever they fit begins with
        self._most_segments = 0

    def find(
        self, method: str, path: str, scope: Scope | None = None
    ) -> tuple[RouteFacts, dict[str, Any] | None]:
        """The facts of the route for this request, and its path's parameters.

        The parameters are None where the router has to decide: no route fits the path, or none its method, or the
        one that does is not FastAPI's own. scope: the request, for routes that match by more than path and method; where it
        is None they are taken for such that do not.
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
        partial: RouteFacts | None = None  # the path exists: a 405 belongs to its first route
        for _, pattern, methods, facts, ask in self._candidates(path):
            if ask is not None and scope is not None:
                try:
                    match = ask(scope)
                except Exception:  # noqa: BLE001 - the router will fail alike, where that is answered
                    return self.unmatched, None
                if match is Match.FULL:
                    return facts, None
                if match is Match.NONE:
                    continue
            else:
                found = pattern.match(path)
                if found is None:
                    continue
                parameters = _parameters(facts, found)
                if parameters is None:
                    return self.unreadable, None
                if methods is None or method in methods:
                    return facts, parameters if facts.endpoint_app is not None else None
            if partial is None:
                partial = facts
        return partial or self.unmatched, None

    def prepare(self) -> Iterator[tuple[str, RouteFacts]]:
        """Builds the table; method and facts of every route in it."""
        self._build()
        for facts in self._facts_of_all:
            yield from ((method, facts) for method in facts.methods)

    def _candidates(self, path: str) -> list[_Entry]:
        """What may fit this path, in the order of registration."""
        found = self._others.get("", _NONE)
        end = 0
        for _ in range(self._most_segments):  # however many the path has
            end = path.find("/", end + 1)
            more = self._others.get(path if end < 0 else path[:end])
            if more is not None:
                found = sorted((*found, *more), key=_by_order) if found else more
            if end < 0:
                break
        more = self._exact.get(path)
        if more is not None:
            found = sorted((*found, *more), key=_by_order) if found else more
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
        self._static, self._exact, self._others, self._facts_of_all = {}, {}, {}, []
        for order, (route, context, routers) in enumerate(_walk(router.routes, ())):
            if _is_one_of(route.matches, _NO_REQUESTS):
                continue
            self._enter(order, route, context, routers)
        self._most_segments = max((beginning.count("/") for beginning in self._others), default=0)
        for path in self._exact:
            self._settle(path)

    def _enter(
        self,
        order: int,
        route: BaseRoute,
        context: _EffectiveRouteContext | None,
        routers: tuple[_IncludedRouter, ...],
    ) -> None:
        source: Any = route if context is None else context
        pattern: re.Pattern[str] | None = getattr(source, "path_regex", None)
        template, endpoint = getattr(source, "path", None), getattr(source, "endpoint", None)
        methods = frozenset(getattr(source, "methods", None) or ())
        if template is None or endpoint is None or pattern is None:
            facts = self._facts(UNMATCHED, None)  # as mounts and the like measure
        else:
            facts = self._facts(template, endpoint)
            facts.methods = methods
            self._facts_of_all.append(facts)
        facts.convertors = getattr(source, "param_convertors", {})
        doors = tuple(one for one in routers if not _is_one_of(one.original_router.matches, _DOORS))
        ask: _Ask | None = None
        if doors or not _is_one_of(route.matches, _BY_PATTERN):
            ask = _asker(route, context, doors)
        if isinstance(route, APIRoute):
            facts.route = route
            facts.is_stream = _declares_events(route)
            if (
                ask is None
                and _is_one_of(route.handle, (APIRoute.handle,))
                and all(_is_one_of(one.original_router.handle, _DOORS) for one in routers)
            ):
                facts.endpoint_app = source.app  # built for this inclusion, with its dependencies
                facts.form_limits = {**self._app.router.form_limits}
                for one in routers:
                    facts.form_limits.update(one.include_context.form_limits)
        entry = (order, pattern or _NOTHING, methods or None, facts, ask)
        beginning = "" if ask is not None or pattern is None else _beginning(source.path_format, pattern)
        if beginning is None:
            self._exact.setdefault(source.path_format, []).append(entry)
        else:
            self._others.setdefault(beginning, []).append(entry)

    def _settle(self, path: str) -> None:
        """Notes for a static path which methods are its own, whatever else a request may bring."""
        candidates = self._candidates(path)
        for method in frozenset().union(*(entry[2] or () for entry in self._exact[path])):
            for _, pattern, methods, facts, ask in candidates:
                if ask is not None:
                    break
                if pattern.match(path) is not None and (methods is None or method in methods):
                    if not facts.convertors:
                        self._static.setdefault(path, {})[method] = facts
                    break


def _walk(
    routes: Sequence[BaseRoute | _EffectiveRouteContext], routers: tuple[_IncludedRouter, ...]
) -> Iterator[tuple[BaseRoute, _EffectiveRouteContext | None, tuple[_IncludedRouter, ...]]]:
    """The routes in the order in which FastAPI asks them, what an inclusion made of each, and the routers around it."""
    for route in routes:
        if isinstance(route, _IncludedRouter):
            yield from _walk(route.effective_candidates(), (*routers, route))
        elif not isinstance(route, _EffectiveRouteContext):
            yield route, None, routers
        elif route.starlette_route is not None:  # made anew, with the prefix
            yield route.starlette_route, None, routers
        else:
            yield route.original_route, route, routers


def _is_one_of(method: Any, functions: tuple[Any, ...]) -> bool:
    """Whether a bound method is still what one of these classes defines."""
    return getattr(method, "__func__", None) in functions


def _asker(
    route: BaseRoute, context: _EffectiveRouteContext | None, doors: tuple[_IncludedRouter, ...]
) -> _Ask:
    """What asks a route, behind the routers that have a say in it, as FastAPI's router will; the request stays as it is."""

    def ask(scope: Scope) -> Match:
        if any(door.matches({**scope})[0] is Match.NONE for door in doors):
            return Match.NONE
        asked = {**scope}
        if context is not None:
            asked[_FASTAPI] = {**scope.get(_FASTAPI, {}), _CONTEXT: context}
        return route.matches(asked)[0]

    return ask


def _beginning(path_format: str, pattern: re.Pattern[str]) -> str | None:
    """The segments before the first parameter; None where the path is static.

    "" where somebody has given the route a pattern of another make, such as one that takes small letters for capitals.
    """
    literal = path_format.partition("{")[0]
    if pattern.flags != re.UNICODE or not pattern.pattern.startswith(f"^{re.escape(literal)}"):
        return ""
    if pattern.pattern == f"^{re.escape(path_format)}$":
        return None
    return literal.rpartition("/")[0]


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
