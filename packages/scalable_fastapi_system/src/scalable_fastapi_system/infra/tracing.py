"""OpenTelemetry traces: from the request through SQL and Redis to the job that it enqueued. Off by default.

With tracing off nothing of the SDK is imported. With it on, spans are exported in batches by OTLP over HTTP; a
collector that is away costs nothing but the spans. Secrets are masked in every attribute and status before it leaves.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scalable_fastapi_system.infra.logging import Redactor, secrets_of
from scalable_fastapi_system.infra.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_provider: TracerProvider | None = None
_instrumentors: list[Any] = []


def configure_tracing(settings: Settings, *, component: str, exporter: SpanExporter | None = None) -> None:
    """Starts tracing this process if the settings ask for it. Called once by a composition root.

    component: `api` or `worker`; becomes part of `service.name`. exporter: in place of OTLP, for tests.
    """
    global _provider  # noqa: PLW0603 - a process has one provider, as OpenTelemetry has
    if not settings.tracing.enabled or _provider is not None:
        return
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create(
        {
            SERVICE_NAME: f"{settings.tracing.service_name}-{component}",
            SERVICE_VERSION: settings.api.version,
            "deployment.environment.name": str(settings.environment),
        }
    )
    _provider = TracerProvider(
        resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.tracing.sample_ratio))
    )
    guarded = _redacting(exporter or _otlp_exporter(settings), Redactor(secrets_of(settings)))
    _provider.add_span_processor(
        BatchSpanProcessor(guarded) if exporter is None else SimpleSpanProcessor(guarded)
    )
    trace.set_tracer_provider(_provider)
    _instrument(settings)


def tracer_provider() -> TracerProvider | None:
    """The provider of this process, None where nothing is traced."""
    return _provider


def stop_tracing() -> None:
    """Sends what is left and stops. Nothing happens where nothing was started."""
    global _provider  # noqa: PLW0603 - see above
    for instrumentor in _instrumentors:
        instrumentor.uninstrument()
    _instrumentors.clear()
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def send_spans_left(*, timeout_seconds: float = 2.0) -> None:
    """Sends what is left, at most for this long: for who ends the process past what Python does at its end."""
    if _provider is not None:
        # A thread of its own, because the exporter knows its own patience only, and the process may go on without it.
        sending = threading.Thread(target=_provider.force_flush, daemon=True)
        sending.start()
        sending.join(timeout_seconds)


@contextmanager
def job_span(kind: str, *, traceparent: str | None, job_id: str, attempt: int) -> Iterator[Any]:
    """The span of one attempt of a job, a child of the span that enqueued it. None where nothing is traced."""
    if _provider is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent}) if traceparent else None
    tracer = _provider.get_tracer("scalable_fastapi_system.jobs")
    attributes: dict[str, Any] = {
        "messaging.operation.type": "process",
        "job.kind": kind,
        "job.id": job_id,
        "job.attempt": attempt,
    }
    with tracer.start_as_current_span(
        f"job {kind}", context=parent, kind=SpanKind.CONSUMER, attributes=attributes, record_exception=False
    ) as span:
        try:
            yield span
        except Exception as error:
            mark_failed(span, type(error).__name__)
            raise


def mark_failed(span: Any, error_type: str) -> None:
    """Has the span shown as failed, by an error of this type: its message may hold what a client sent."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, error_type))


def current_trace_id() -> str | None:
    """The trace of the running code, for log lines; None where nothing is traced."""
    if _provider is None:
        return None
    trace: Any = sys.modules["opentelemetry.trace"]
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def current_traceparent() -> str | None:
    """The current span as W3C trace context; None where nothing is traced (then OpenTelemetry is not even loaded)."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _otlp_exporter(settings: Settings) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    endpoint = settings.tracing.otlp_endpoint
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces") if endpoint else OTLPSpanExporter()


def _instrument(settings: Settings) -> None:
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    if settings.database.database_url.startswith("postgres"):
        from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor

        # One layer below SQLAlchemy: it sees the sessions' statements and the direct reads alike.
        database: Any = AsyncPGInstrumentor(capture_parameters=False)  # type: ignore[no-untyped-call]
    else:
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

        database = SQLAlchemyInstrumentor()
    for instrumentor in (database, RedisInstrumentor()):
        instrumentor.instrument(skip_dep_check=True)
        _instrumentors.append(instrumentor)


def _redacting(exporter: SpanExporter, redactor: Redactor) -> SpanExporter:
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Status

    def clean(attributes: Any) -> dict[str, Any]:
        found: dict[str, Any] = dict(attributes or {})
        # Whatever a client puts into a query may be a secret: the names say enough.
        query = found.get("url.query")
        if query:
            found["url.query"] = "&".join(part.partition("=")[0] for part in str(query).split("&"))
        return dict(redactor(None, "", found))

    class Redacting(SpanExporter):
        """Masks secrets in attributes, events and what a span failed with on the way out."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return exporter.export([self._clean(span) for span in spans])

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return exporter.force_flush(timeout_millis)

        @staticmethod
        def _clean(span: ReadableSpan) -> ReadableSpan:
            return ReadableSpan(
                name=span.name,
                context=span.context,
                parent=span.parent,
                resource=span.resource,
                attributes=clean(span.attributes),
                events=[Event(event.name, clean(event.attributes), event.timestamp) for event in span.events],
                links=span.links,
                kind=span.kind,
                status=Status(span.status.status_code, redactor.mask(span.status.description)),
                start_time=span.start_time,
                end_time=span.end_time,
                instrumentation_scope=span.instrumentation_scope,
            )

    return Redacting()
