"""One pass around every request: id, admission, limits, headers, metrics and the request's log line.

One pure ASGI layer with one `send` wrapper in place of a stack, because each layer of a stack costs every
request. Order: request id → host → (CORS) → room in the process → rate limit → body limit and time limit (until
the answer begins) → the application; on the way out: headers, metrics, log line. An exception that nobody handled becomes a 500
here, with the request id and without its text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import FastAPI
from fastapi.routing import _apply_router_form_limits
from starlette._utils import is_async_callable
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from scalable_fastapi_system.infra.error_tracking import report_error
from scalable_fastapi_system.infra.logging import RequestLog
from scalable_fastapi_system.infra.metrics import UNMATCHED, MetricsManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.tracing import tracer_provider
from scalable_fastapi_system.kit.errors import APIException
from scalable_fastapi_system.kit.ids import is_request_id, new_request_id
from scalable_fastapi_system.web.accept_encoding import wants_gzip
from scalable_fastapi_system.web.client_address import ProxyTrust
from scalable_fastapi_system.web.hosts import HostRule
from scalable_fastapi_system.web.packing import Packing
from scalable_fastapi_system.web.problems import problem_response
from scalable_fastapi_system.web.refusals import Refusals, no_room
from scalable_fastapi_system.web.room import Room
from scalable_fastapi_system.web.route_table import EVENTS, RouteFacts, RouteTable, route_path
from scalable_fastapi_system.web.security_headers import API_POLICY, security_headers
from scalable_fastapi_system.web.slow_body import CLIENT_CLOSED, PATIENCE_SHARE, bounded_body
from scalable_fastapi_system.web.time_limit import TimeLimit
from scalable_fastapi_system.web.waiting_line import WaitingLine

if TYPE_CHECKING:
    from scalable_fastapi_system.web.request_spans import RequestSpan, RequestSpans

_log = structlog.get_logger("api.request")
_request_log = RequestLog("api.request")
_CSP = (b"content-security-policy", API_POLICY.encode())
_REQUEST_ID = b"x-request-id"
_POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1
_WEBSOCKET_SCHEMES = {"wss": "wss", "https": "wss"}  # a trusted proxy tells of https
_VARY = (b"vary", b"Origin")
_NO_STORE = (b"cache-control", b"no-store")
_EVENTS = EVENTS.encode()
_NO_TRACE: dict[str, str] = {}
_OFFERED_BY_TEST_CLIENTS = "http.response.debug"
_COMPRESS_FROM_BYTES = 1000
_MOST_HANDLER_THREADS = 4
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Admission(Protocol):
    """The rate limit as this pass sees it.

    Returns the headers to add to the answer, or an awaitable of them where a store has to be asked. Raises
    (or the awaitable raises) RateLimitExceededException with its headers.
    """

    def __call__(
        self, scope: Scope, facts: RouteFacts
    ) -> list[tuple[bytes, bytes]] | Awaitable[list[tuple[bytes, bytes]]]: ...


Identify = Callable[[Scope, bytes | None, bytes | None], None]
# The application for a request with this idempotency key, which does it once (see web/idempotency.py).
OnceUnderKey = Callable[[ASGIApp, RouteFacts, bytes], ASGIApp]


class PlatformMiddleware:
    """The platform's whole middleware. `app` is what it wraps, `owner` the FastAPI application it serves."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        owner: FastAPI,
        settings: Settings,
        metrics: MetricsManager | None,
        admission: Admission | None = None,
        identify: Identify | None = None,
        once: OnceUnderKey | None = None,
    ) -> None:
        """
        identify: looks at the raw Authorization and X-API-Key headers and, if it knows the caller without any
        I/O, leaves the principal in `scope["state"]["principal"]`. Never raises.
        """
        self._owner = owner
        self._app = app
        # Whether nothing that somebody added stands between this pass and the endpoints.
        self._is_innermost = len(owner.user_middleware) == 0
        self._spans = _request_spans()
        self._exception_handlers = split_handlers(owner)
        self._gzip: ASGIApp = Packing(
            self._run_endpoint_or_app if self._is_innermost else app, minimum_size=_COMPRESS_FROM_BYTES
        )
        self._metrics = metrics
        self._admission = admission
        self._identify = identify
        self._once = once
        api, security = settings.api, settings.security
        self._routes = RouteTable(
            owner, body_limit_bytes=api.max_body_bytes, timeout_seconds=api.request_timeout_seconds
        )
        self._headers = security_headers(settings)
        self._header_names = frozenset({_REQUEST_ID, *(name for name, _ in self._headers)})
        self._trust = ProxyTrust(security.trusted_proxies)
        room = self._room = Room(api.max_concurrent_requests, api.max_event_streams)
        # For the protocol, which refuses most of what comes to a full process before it comes here.
        owner.state.waiting_line = WaitingLine(Refusals(room, self._routes, metrics, self._headers))
        if metrics is not None:
            metrics.watch_in_progress(lambda: room.taken)
            for method, facts in self._routes.prepare():
                metrics.prepare(method, facts.template)
        self._patience_seconds = api.slow_client_seconds * PATIENCE_SHARE
        self._slow_client_bytes_per_second = api.slow_client_bytes_per_second
        self._slow_request_seconds = api.slow_request_seconds
        self._writes_lines = settings.logging.access_log
        self._silent_paths = frozenset(settings.logging.skip_paths)
        self._hosts = None if "*" in security.allowed_hosts else HostRule(security.allowed_hosts)
        self._cors: CORSMiddleware | None = None
        if security.cors_origins:
            self._cors = CORSMiddleware(
                self._admit,
                allow_origins=security.cors_origins,
                allow_credentials=security.cors_allow_credentials,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=[
                    "X-Request-ID",
                    "RateLimit",
                    "RateLimit-Policy",
                    "Retry-After",
                    "Idempotency-Replayed",
                ],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await self._serve_websocket(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        self._room.enter()
        exchange: _Exchange | None = None
        try:
            exchange = _Exchange(self, scope, send)
            self._trust.note(scope)
            if self._spans is not None:
                exchange.span = span = self._spans.begin(scope, exchange.facts.template)
                exchange.trace = {"trace_id": span.trace_id}
            structlog.contextvars.bind_contextvars(request_id=exchange.request_id, **exchange.trace)
            try:
                if exchange.hosts != 1 and (exchange.hosts or scope["http_version"] == "1.1"):
                    raise APIException("A request has one Host header", 400)
                target: ASGIApp = (
                    self._cors if self._cors is not None and exchange.has_origin else self._admit
                )
                await target(scope, receive, exchange.send)
            except asyncio.CancelledError:
                exchange.status = exchange.status or CLIENT_CLOSED
                raise
            except ClientDisconnect:
                # It left before its body was whole: nobody is there to answer, and nothing of ours has failed.
                exchange.status = exchange.status or CLIENT_CLOSED
            except Exception as error:  # noqa: BLE001 - the last stop: everything becomes an answer here
                await self._answer_error(exchange, scope, receive, error)
            finally:
                self._finish(exchange, scope)
                if exchange.span is not None:
                    exchange.span.end(exchange.status or 500, exchange.failure)
                exchange.let_go()
        finally:
            if exchange is None:
                self._room.leave()
            else:
                exchange.leave_room()

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a WebSocket has in common with a request: the host, the id, the client's address and a log line."""
        started = time.perf_counter()
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        inbound_id = next(
            (value.decode("latin-1") for name, value in scope["headers"] if name == _REQUEST_ID), ""
        )
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = inbound_id if is_request_id(inbound_id) else new_request_id()
        self._trust.note(scope)
        scope["scheme"] = _WEBSOCKET_SCHEMES.get(scope.get("scheme", "ws"), "ws")
        structlog.contextvars.bind_contextvars(request_id=request_id)
        is_refused = len(hosts) > 1 or (self._hosts is not None and not self._hosts.allows(b"".join(hosts)))
        try:
            if is_refused:
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})  # before accepting: a 403
            else:
                await self._app(scope, receive, send)
        except WebSocketDisconnect:
            pass  # its client has left, and the endpoint has not looked out for that: nothing of ours has failed
        except Exception as error:
            report_error(error, request_id=request_id, route=getattr(scope.get("route"), "path", UNMATCHED))
            raise  # the server logs it, and closes
        finally:
            if self._writes_lines:
                _request_log.write(
                    "websocket refused" if is_refused else "websocket",
                    is_warning=False,
                    path=scope["path"],
                    duration_ms=round((time.perf_counter() - started) * 1000, 2),
                    client=state.get("client_address"),
                    request_id=request_id,
                )

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: _Exchange = scope["state"]["exchange"]
        facts = exchange.facts
        if self._hosts is not None and not self._hosts.allows(exchange.host) and not facts.is_probe:
            raise APIException("This host is not served here", 400, "UNKNOWN_HOST")
        room = self._room
        is_full = room.is_over
        if facts.is_stream:
            is_full = is_full or room.streams >= room.most_streams
        if is_full and not facts.is_probe:
            exchange.is_refused = True
            raise no_room()
        if self._identify is not None:
            self._identify(scope, exchange.authorization, exchange.api_key)
        if self._admission is not None and not facts.is_probe:
            admitted = self._admission(scope, facts)
            exchange.extra_headers = admitted if isinstance(admitted, list) else await admitted
        if facts is self._routes.unreadable:
            raise HTTPException(404)
        if scope["method"] in _BODY_METHODS or exchange.has_body:
            receive = self._bounded(receive, exchange, facts)
        if (
            exchange.idempotency_key is not None
            and self._once is not None
            and scope["method"] == "POST"
            and "POST" in facts.methods  # else the router says 405
        ):
            inner = self._run_endpoint_or_app if self._is_innermost else self._app
            app = self._once(
                inner, facts, exchange.idempotency_key
            )  # not in gzip: who asks again may not take it
        elif exchange.takes_gzip and not facts.carries_secrets:
            app = self._gzip
        elif exchange.path_params is not None and self._is_innermost:
            app = self._run_endpoint
        else:
            app = self._app
        if facts.timeout_seconds is None:
            await app(scope, receive, send)
            return
        with TimeLimit(facts.timeout_seconds) as exchange.limit:
            await app(scope, receive, send)

    async def _run_endpoint_or_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: _Exchange = scope["state"]["exchange"]
        app = self._app if exchange.path_params is None else self._run_endpoint
        await app(scope, receive, send)

    async def _run_endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Straight to the endpoint that the route table found, as FastAPI's own layers would come to it."""
        exchange: _Exchange = scope["state"]["exchange"]
        facts = exchange.facts
        scope["route"] = facts.route
        scope["endpoint"] = facts.endpoint
        outer = scope.get("path_params")  # of a host that this application stands behind
        scope["path_params"] = {**outer, **(exchange.path_params or {})} if outer else exchange.path_params
        scope["router"] = self._owner.router
        scope["starlette.exception_handlers"] = self._exception_handlers
        if facts.form_limits:
            _apply_router_form_limits(scope, facts.form_limits)
        async with AsyncExitStack() as stack:
            scope["fastapi_middleware_astack"] = stack
            await facts.endpoint_app(scope, receive, send)  # type: ignore[misc]

    def _bounded(self, receive: Receive, exchange: _Exchange, facts: RouteFacts) -> Receive:
        limit = facts.body_limit_bytes
        if exchange.content_length > limit:
            raise HTTPException(413, f"The body is larger than the {limit} bytes allowed here")
        return self._bounded_as_it_comes(receive, exchange)

    def _bounded_as_it_comes(self, receive: Receive, exchange: _Exchange) -> Receive:
        return bounded_body(
            receive,
            exchange,
            limit_bytes=exchange.facts.body_limit_bytes,
            patience_seconds=self._patience_seconds,
            bytes_per_second=self._slow_client_bytes_per_second,
            note_waiting=self._room.note_waiting,
        )

    async def _answer_error(
        self, exchange: _Exchange, scope: Scope, receive: Receive, error: Exception
    ) -> None:
        is_meant = isinstance(error, HTTPException | APIException)
        if not is_meant:
            exchange.failure = error
            report_error(error, request_id=exchange.request_id, route=exchange.facts.template)
        if exchange.status:
            # The answer is under way: all that is left is to break it off, which the server does. A client that leaves does not
            # come here: what streams to it is cancelled, or has a ClientDisconnect.
            event = "failed after the answer" if exchange.answered_at else "failed while answering"
            _log.error(event, exc_info=error, route=exchange.facts.template)
            if exchange.answered_at:
                _raise_for_test(exchange, scope)
                return  # it came whole, and the client's connection is as good as before
            exchange.is_broken_off = exchange.failure is not None
            raise error
        if not is_meant:
            _log.error(
                "unhandled exception", exc_info=error, route=exchange.facts.template, method=scope["method"]
            )
        # A handler may read the body: within the limits, whatever this pass has refused it for.
        request = Request(scope, self._bounded_as_it_comes(receive, exchange))
        try:
            response = await self._handled(request, error)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED
            return
        except HTTPException as refused:  # as for the body that the handler has read
            response = problem_response(
                request, APIException(str(refused.detail), refused.status_code, headers=refused.headers)
            )
        except Exception as failure:  # noqa: BLE001 - of a handler that somebody added: no other one is asked about it
            exchange.failure = exchange.failure or failure
            report_error(failure, request_id=exchange.request_id, route=exchange.facts.template)
            _log.error("exception handler failed", exc_info=failure, route=exchange.facts.template)
            response = problem_response(request, _internal_error())
        await response(scope, receive, self._own_send(exchange, scope))
        _raise_for_test(exchange, scope)

    async def _handled(self, request: Request, error: Exception) -> ASGIApp:
        """The answer of the handler that Starlette would find: by status, by class, and at last the one for all that fails."""
        by_class, by_status = self._exception_handlers
        handler: Any = None
        if isinstance(error, HTTPException):
            handler = by_status.get(error.status_code)
        if isinstance(error, HTTPException | APIException):
            handler = handler or next(
                (by_class[kind] for kind in type(error).__mro__ if kind in by_class), None
            )
        else:
            handlers = self._owner.exception_handlers
            handler = handlers.get(Exception) or handlers.get(500)
        if handler is None:
            if not isinstance(error, APIException):
                error = _internal_error()
            return problem_response(request, error)
        if is_async_callable(handler):
            response = await handler(request, error)
        else:
            # Threads of their own: where endpoints hold all the others, a refusal is not to wait for them.
            response = await to_thread.run_sync(handler, request, error, limiter=_handler_threads())
        if not callable(response):
            raise TypeError(f"the exception handler {handler!r} gave no response but {response!r}")
        return response  # type: ignore[no-any-return]

    def _own_send(self, exchange: _Exchange, scope: Scope) -> Send:
        """Sends what this pass answers itself, which has not come through the CORS layer.

        Without its headers a browser would hide the answer from the page, and with it what Retry-After says.
        """
        if self._cors is None or not exchange.has_origin:
            return exchange.send
        return partial(self._cors.send, send=exchange.send, request_headers=Headers(scope=scope))

    def _finish(self, exchange: _Exchange, scope: Scope) -> None:
        seconds = (exchange.answered_at or time.perf_counter()) - exchange.started
        if exchange.has_left and exchange.failure is None:
            exchange.status = CLIENT_CLOSED  # whatever the endpoint made of it
        # Who got half an answer was not served, whatever its head said.
        status = 500 if exchange.is_broken_off else exchange.status or 500
        facts = exchange.facts
        is_limited = facts.timeout_seconds is not None  # else it lasts as long as the client likes
        if self._metrics is not None and exchange.is_refused:
            self._metrics.record_refused(scope["method"], facts.template)
        elif self._metrics is not None:
            self._metrics.record_request(
                scope["method"],
                facts.template,
                status,
                seconds if is_limited else None,
                request_bytes=exchange.content_length,
                response_bytes=exchange.response_bytes,
            )
        if not self._writes_lines or (status < 400 and scope["path"] in self._silent_paths):
            return
        is_slow = seconds >= self._slow_request_seconds and is_limited
        state = scope["state"]
        _request_log.write(
            "slow request" if is_slow else "request",
            is_warning=is_slow or status >= 500,
            path=scope["path"],
            method=scope["method"],
            route=facts.template,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            client=state.get("client_address"),
            user_id=getattr(state.get("principal"), "id", None),
            request_id=exchange.request_id,
            **exchange.trace,
        )


def _request_spans() -> RequestSpans | None:
    provider = tracer_provider()
    if provider is None:
        return None
    from scalable_fastapi_system.web.request_spans import RequestSpans

    return RequestSpans(provider)


def split_handlers(owner: FastAPI) -> tuple[dict[Any, Any], dict[int, Any]]:
    """The application's exception handlers as Starlette looks them up: by class, and by status."""
    by_class: dict[Any, Any] = {}
    by_status: dict[int, Any] = {}
    for key, handler in owner.exception_handlers.items():
        if key in (500, Exception):
            continue  # the last stop is this pass itself
        if isinstance(key, int):
            by_status[key] = handler
        else:
            by_class[key] = handler
    return by_class, by_status


async def _send_too_late(_message: Message) -> None:
    raise RuntimeError("the request has ended: nothing can be sent any more")


def _raise_for_test(exchange: _Exchange, scope: Scope) -> None:
    """Raises what nobody handled, once it is answered, as Starlette does so that tests see it; a server would log it twice."""
    if exchange.failure is not None and _OFFERED_BY_TEST_CLIENTS in (scope.get("extensions") or ()):
        raise exchange.failure


def _internal_error() -> APIException:
    return APIException("Internal server error", 500, "INTERNAL_ERROR")


_threads: RunVar[CapacityLimiter] = RunVar("_handler_threads")


def _handler_threads() -> CapacityLimiter:
    try:
        return _threads.get()
    except LookupError:
        limiter = CapacityLimiter(_MOST_HANDLER_THREADS)
        _threads.set(limiter)
        return limiter


class _Exchange:
    """One request and its answer while they are at work."""

    __slots__ = (
        "_has_left_room",
        "_header_names",
        "_headers",
        "_room",
        "_send",
        "_varies_by_origin",
        "answered_at",
        "api_key",
        "authorization",
        "content_length",
        "extra_headers",
        "facts",
        "failure",
        "has_body",
        "has_left",
        "has_origin",
        "host",
        "hosts",
        "idempotency_key",
        "is_body_complete",
        "is_broken_off",
        "is_refused",
        "is_stream",
        "limit",
        "must_close",
        "path_params",
        "request_id",
        "response_bytes",
        "span",
        "started",
        "status",
        "takes_gzip",
        "trace",
    )

    def __init__(self, owner: PlatformMiddleware, scope: Scope, send: Send) -> None:
        state = scope.setdefault("state", {})
        # Where it waited for room, that is part of the time that it took.
        self.started: float = state.get("came_at") or time.perf_counter()
        self._room = owner._room
        self._send = send
        self._headers = owner._headers
        self._header_names = owner._header_names
        self._varies_by_origin = owner._cors is not None
        self.status = 0
        self.response_bytes = 0
        self.content_length = 0
        self.authorization: bytes | None = None
        self.api_key: bytes | None = None
        self.host = b""
        self.hosts = 0  # how often it was told: by one a check would go, by another the application
        self.idempotency_key: bytes | None = None
        self.takes_gzip = False
        self.has_body = False
        self.has_origin = False
        self.is_body_complete = False
        self.is_refused = False  # for want of room
        self.must_close = False
        self.is_stream = False
        self.failure: Exception | None = None  # what nobody handled
        self.is_broken_off = False  # by a failure, after its head was sent
        self.has_left = False
        self.answered_at = 0.0  # when the last of the answer was sent: background tasks come after it
        self._has_left_room = False
        self.limit: TimeLimit | None = None
        self.extra_headers: list[tuple[bytes, bytes]] = []
        inbound_id = ""
        for name, value in scope["headers"]:
            if name == b"authorization":
                self.authorization = value
            elif name == b"accept-encoding":
                self.takes_gzip = b"gzip" in value and (b";" not in value or wants_gzip(value))
            elif name == b"content-length":
                self.content_length = int(value) if value.isdigit() else 0
                self.has_body = self.content_length > 0
            elif name == b"transfer-encoding":
                self.has_body = True
            elif name == _REQUEST_ID:
                inbound_id = value.decode("latin-1")
            elif name == b"x-api-key":
                self.api_key = value
            elif name == b"idempotency-key":
                self.idempotency_key = value
            elif name == b"host":
                self.host = value
                self.hosts += 1
            elif name == b"origin":
                self.has_origin = True
        # That of the platform's application in which this one is mounted.
        outer: _Exchange | None = state.get("exchange")
        if outer is not None:
            inbound_id = outer.request_id
        self.request_id: str = inbound_id if inbound_id and is_request_id(inbound_id) else new_request_id()
        state["request_id"] = self.request_id
        state["exchange"] = self
        self.span: RequestSpan | None = None
        self.trace = _NO_TRACE
        if scope.get("root_path"):
            self.facts, _ = owner._routes.find(scope["method"], route_path(scope), scope)
            self.path_params = None  # the router takes the prefix off for the endpoint, too
        else:
            self.facts, self.path_params = owner._routes.find(scope["method"], scope["path"], scope)

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self.limit is not None:
                self.limit.lift()  # how long the rest takes is a matter of its reader, whom the protocol watches
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            has_cache_control = has_policy = False
            own: list[bytes] = []
            for name, value in headers:
                if name == b"content-length":
                    self.response_bytes = int(value)
                elif name == b"cache-control":
                    has_cache_control = True
                elif name == b"content-security-policy":
                    has_policy = True
                elif name == b"content-type" and value.startswith(_EVENTS) and not self.is_stream:
                    self.is_stream = True
                    self._room.streams += 1
                elif name in self._header_names:
                    own.append(name)
            if own:  # where the endpoint knows better; two values of one header would make browsers drop both
                headers = [header for header in headers if header[0] != _REQUEST_ID]
                headers += [header for header in self._headers if header[0] not in own]
            else:
                headers += self._headers
            headers.append((_REQUEST_ID, self.request_id.encode()))
            if not has_policy:
                headers.append(_CSP)
            if not has_cache_control and (self.authorization or self.api_key or self.status >= 400):
                headers.append(_NO_STORE)
            if self.extra_headers:
                headers += self.extra_headers
            if self.must_close:
                headers.append((b"connection", b"close"))
            if self._varies_by_origin and not any(
                name == b"vary" and b"origin" in value.lower() for name, value in headers
            ):
                # The CORS layer says so only where it allows an origin; a cache must not give that one what others got.
                headers.append(_VARY)
            message["headers"] = headers
        if self.is_stream:  # which is counted as such, also while it waits
            await self._send(message)
        else:
            room = self._room
            room.waiting += 1
            try:
                await self._send(message)
            finally:
                room.waiting -= 1
        if kind == "http.response.body" and not message.get("more_body", False):
            self.answered_at = time.perf_counter()
            self.leave_room()

    def leave_room(self) -> None:
        """Gives its place to others, when its answer is complete: what it does in the background holds nobody up."""
        if not self._has_left_room:
            self._has_left_room = True
            if self.is_stream:
                self._room.streams -= 1
            self._room.leave()

    def let_go(self) -> None:
        """The request has ended. Its scope holds this and, by the server's `send`, itself: three thousand such rings a second
        had Python's collector stop the process for up to 60 ms at a time, looking for them."""
        self._send = _send_too_late
        self.failure = None  # whose traceback leads to all that the request held
