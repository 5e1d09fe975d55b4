"""The OpenTelemetry span of a request, begun and ended by the platform's one pass.

FastAPI's own spans need its router to find the route once more and cost a request that is not sampled as much as one that
is. Here the route is known beforehand, and what only a recorded span shows is looked up for recorded spans alone. Names
and attributes follow OpenTelemetry's semantic conventions for HTTP servers.

Only loaded where traces are taken.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context as contexts
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from starlette.types import Scope

from scalable_fastapi_system.infra.metrics import KNOWN_METHODS, OTHER_METHOD, UNMATCHED

_DEFAULT_PORTS = {"http": 80, "https": 443}


class RequestSpans:
    """Begins the spans of requests with one provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("scalable_fastapi_system.web")
        # The headers in which a caller's trace may come: by default W3C's traceparent, tracestate and baggage.
        self._carriers = frozenset(field.encode() for field in propagate.get_global_textmap().fields)

    def begin(self, scope: Scope, template: str) -> RequestSpan:
        """Begins the span of this HTTP request and makes it the current one, in the caller's context."""
        parent = self._parent(scope)
        method = scope["method"]
        known = method if method in KNOWN_METHODS else OTHER_METHOD
        name = method if known == method else "HTTP"
        if template != UNMATCHED:
            name = f"{name} {template}"
        span = self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER)
        if span.is_recording():
            span.set_attributes(_attributes(scope, known, template))
        return RequestSpan(span, parent)

    def _parent(self, scope: Scope) -> Context:
        """The caller's context; an empty one where there is none.

        Never the current one: uvicorn begins a request that came behind another while that one sends its answer.
        """
        carriers = self._carriers
        carried: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in carriers:
                key, text = name.decode("latin-1"), value.decode("latin-1")
                carried[key] = f"{carried[key]},{text}" if key in carried else text
        return propagate.extract(carried, Context()) if carried else Context()


class RequestSpan:
    """A span that has begun and is the current one until `end`, which the same task must call."""

    __slots__ = ("_span", "_token", "trace_id")

    def __init__(self, span: Span, parent: Context) -> None:
        self._span = span
        self._token = contexts.attach(set_span_in_context(span, parent))
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def end(self, status: int, failure: BaseException | None) -> None:
        """failure: what nobody handled. The span has failed by it, or by a status from 500 on."""
        span = self._span
        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            if failure is not None or status >= 500:
                span.set_attribute("error.type", _type_name(failure) if failure is not None else str(status))
                span.set_status(StatusCode.ERROR)
        span.end()
        contexts.detach(self._token)


def _attributes(scope: Scope, method: str, template: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": method,
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "network.protocol.version": scope["http_version"],
        **_server(scope),
    }
    if method == OTHER_METHOD:
        found["http.request.method_original"] = scope["method"]
    if template != UNMATCHED:
        found["http.route"] = template
    if scope["query_string"]:
        found["url.query"] = scope["query_string"].decode("latin-1")  # its values are masked at the export
    return found


def _server(scope: Scope) -> dict[str, Any]:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    try:
        url = urlsplit(f"//{host}")
        address, port = url.hostname, url.port
    except ValueError:
        return {}  # what a client sends as its host may be anything
    if address is None:
        return {}
    return {"server.address": address, "server.port": port or _DEFAULT_PORTS.get(scope["scheme"], 0)}


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
