"""One trace from the request to its job, on spans that carry no secret; and nothing loaded when it is off."""

import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.tracing import configure_tracing, stop_tracing, tracer_provider

CANARY = "canary-77aa"


@pytest.fixture
def traced(make_settings, database_section, redis_url):
    settings = make_settings(
        database=database_section,
        redis={"redis_url": redis_url},
        jobs={"mode": "embedded"},
        tracing={"enabled": True, "sample_ratio": 1.0},
        security={"secret_key": f"{CANARY}-signing-key-{'x' * 20}"},
    )
    exporter = InMemorySpanExporter()
    configure_tracing(settings, component="test", exporter=exporter)
    with TestClient(create_app(settings)) as client:
        yield client, exporter
    stop_tracing()


def test_request_statement_and_job_are_one_trace_without_secrets(traced, database_section):
    client, exporter = traced
    user = {"username": "trace_1", "password": f"{CANARY}-password-1"}
    client.post("/auth/register", json={**user, "email": "trace@example.com"})
    token = client.post("/auth/login", data=user).json()["access_token"]
    exporter.clear()
    response = client.post(
        f"/tasks/background?api_key={CANARY}",
        json={"note": CANARY},
        headers={"Authorization": f"Bearer {token}", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"},
    )
    assert response.status_code == 202
    task = response.json()["task_id"]
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        spans = exporter.get_finished_spans()
        if any(span.name.startswith("job ") for span in spans):
            break
        time.sleep(0.05)
    trace = [span for span in spans if f"{span.context.trace_id:032x}" == "ab" * 16]
    names = [span.name for span in trace]
    assert "POST /tasks/background" in names
    job = next(span for span in trace if span.name == "job data.process")
    assert job.attributes["job.id"] == task
    assert job.attributes["job.outcome"] == "succeeded"
    system = urlsplit(database_section["database_url"]).scheme
    assert any(span.attributes.get("db.system") == system for span in trace)
    shown = "".join(span.to_json() for span in spans)
    assert CANARY not in shown
    assert token not in shown


def test_what_a_span_failed_with_is_told_without_secrets(make_settings):
    key = f"{CANARY}-signing-key-{'x' * 20}"
    exporter = InMemorySpanExporter()
    settings = make_settings(tracing={"enabled": True, "sample_ratio": 1.0}, security={"secret_key": key})
    configure_tracing(settings, component="test", exporter=exporter)
    try:
        tracer = tracer_provider().get_tracer("test")
        with pytest.raises(ValueError, match="refused"), tracer.start_as_current_span("fails"):
            raise ValueError(f"refused: {key}")
        with tracer.start_as_current_span("works"):
            pass
    finally:
        stop_tracing()
    failed, worked = exporter.get_finished_spans()
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ValueError: refused: **********"
    assert CANARY not in failed.to_json()
    assert (worked.status.status_code, worked.status.description) == (StatusCode.UNSET, None)


def test_with_tracing_off_the_sdk_is_not_loaded():
    code = (
        "import sys; from scalable_fastapi_system import create_app; create_app(); "
        "print('opentelemetry.sdk' in sys.modules, 'sentry_sdk' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
