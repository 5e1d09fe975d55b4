"""The span of a request: its name, parent, attributes and end, and that it is the current one meanwhile."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from scalable_fastapi_system.infra.metrics import UNMATCHED
from scalable_fastapi_system.web.request_spans import RequestSpans

TRACE, CALLER = "ab" * 16, "cd" * 8


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[RequestSpans]:
    yield from _spans(exporter, ParentBased(ALWAYS_ON))


def _spans(exporter: InMemorySpanExporter, sampler: ParentBased) -> Iterator[RequestSpans]:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield RequestSpans(provider)
    provider.shutdown()


def scope(method: str = "GET", path: str = "/items/7", query: str = "", **headers: str) -> dict[str, object]:
    named = {"host": "api.example.com:8443", **headers}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "scheme": "https",
        "http_version": "1.1",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }


def test_a_span_says_what_was_asked_and_answered(spans: RequestSpans, exporter: InMemorySpanExporter) -> None:
    spans.begin(scope(query="a=1"), "/items/{item_id}").end(201, None)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("GET /items/{item_id}", SpanKind.SERVER, None)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/items/{item_id}",
        "http.response.status_code": 201,
        "network.protocol.version": "1.1",
        "server.address": "api.example.com",
        "server.port": 8443,
        "url.path": "/items/7",
        "url.query": "a=1",
        "url.scheme": "https",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("status", "failure", "error"), [(503, None, "503"), (500, KeyError("a"), "KeyError"), (404, None, None)]
)
def test_a_span_fails_by_a_status_of_the_server_s_or_by_what_nobody_handled(
    spans: RequestSpans,
    exporter: InMemorySpanExporter,
    status: int,
    failure: Exception | None,
    error: str | None,
) -> None:
    spans.begin(scope(), "/items/{item_id}").end(status, failure)
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {}).get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) == (error is not None)


def test_the_caller_s_trace_goes_on_and_its_own_children_belong_to_it(
    spans: RequestSpans, exporter: InMemorySpanExporter
) -> None:
    span = spans.begin(scope(traceparent=f"00-{TRACE}-{CALLER}-01"), "/items/{item_id}")
    assert span.trace_id == TRACE
    assert f"{trace.get_current_span().get_span_context().trace_id:032x}" == TRACE
    span.end(200, None)
    assert not trace.get_current_span().get_span_context().is_valid
    (ended,) = exporter.get_finished_spans()
    assert ended.parent is not None
    assert f"{ended.parent.span_id:016x}" == CALLER


@pytest.mark.parametrize("headers", [{}, {"traceparent": f"00-{TRACE}-{CALLER}-01"}, {"baggage": "a=1"}])
def test_a_request_that_begins_while_another_sends_its_answer_is_none_of_its_trace(
    spans: RequestSpans, exporter: InMemorySpanExporter, headers: dict[str, str]
) -> None:
    """As uvicorn begins what came behind another on one connection."""
    first = spans.begin(scope(), "/items/{item_id}")
    token = context.attach(baggage.set_baggage("of", "the first"))
    second = contextvars.copy_context()
    second.run(lambda: spans.begin(scope(**headers), "/items/{item_id}"))
    assert second.run(lambda: baggage.get_baggage("of")) is None
    second.run(lambda: trace.get_current_span().end())
    context.detach(token)
    first.end(200, None)
    ended, _ = exporter.get_finished_spans()
    assert f"{ended.context.trace_id:032x}" != first.trace_id
    assert (ended.parent is not None) == ("traceparent" in headers)


def test_a_caller_that_is_not_sampled_is_not_recorded_and_neither_are_the_children(
    spans: RequestSpans, exporter: InMemorySpanExporter
) -> None:
    span = spans.begin(scope(traceparent=f"00-{TRACE}-{CALLER}-00"), "/items/{item_id}")
    current = trace.get_current_span()
    assert (span.trace_id, current.is_recording()) == (TRACE, False)
    assert not current.get_span_context().trace_flags.sampled
    span.end(500, ValueError())
    assert exporter.get_finished_spans() == ()


def test_without_a_caller_the_sampler_decides(exporter: InMemorySpanExporter) -> None:
    (spans,) = _spans(exporter, ParentBased(ALWAYS_OFF))
    span = spans.begin(scope(), "/items/{item_id}")
    assert int(span.trace_id, 16) != 0  # log lines have it all the same
    span.end(200, None)
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("[::1]:9000", "::1", 9000),
        ("api.example.com", "api.example.com", 443),
        ("a:b:c", None, None),
        ("[", None, None),
        ("", None, None),
    ],
)
def test_whatever_a_client_sends_as_its_host_the_span_begins(
    spans: RequestSpans, exporter: InMemorySpanExporter, host: str, address: str | None, port: int | None
) -> None:
    spans.begin(scope(host=host), UNMATCHED).end(404, None)
    (span,) = exporter.get_finished_spans()
    attributes = span.attributes or {}
    assert (attributes.get("server.address"), attributes.get("server.port")) == (address, port)


def test_an_unknown_method_and_path_make_no_name_of_their_own(
    spans: RequestSpans, exporter: InMemorySpanExporter
) -> None:
    spans.begin(scope(method="BREW", path="/pot-1"), UNMATCHED).end(404, None)
    (span,) = exporter.get_finished_spans()
    assert span.name == "HTTP"
    attributes = span.attributes or {}
    assert (attributes["http.request.method"], attributes["http.request.method_original"]) == (
        "_OTHER",
        "BREW",
    )
    assert "http.route" not in attributes
