"""A defect reaches the tracker with its request id and without secrets; without a DSN nothing is sent."""

import contextlib
import gzip
import http.server
import json
import subprocess
import sys
import threading
import time

import pytest
from fastapi.testclient import TestClient
from scalable_fastapi_system import create_app
from scalable_fastapi_system.identity.api_key_format import new_key
from scalable_fastapi_system.infra.error_tracking import (
    configure_error_tracking,
    report_error,
    stop_error_tracking,
)

from hack.dev.layout import REPOSITORY
from tests.support.service_processes import ServiceProcess

CANARY = "canary-51cd"


class Tracker(http.server.BaseHTTPRequestHandler):
    received = []
    seconds = 0.0  # that an answer takes
    is_over = threading.Event()

    def do_POST(self):
        self.is_over.wait(self.seconds)
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(body.decode())
        with contextlib.suppress(ConnectionError):  # of who has not waited
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def tracker():
    Tracker.received, Tracker.seconds = [], 0.0
    Tracker.is_over.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tracker) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://public@127.0.0.1:{server.server_port}/1"
        Tracker.is_over.set()
        server.shutdown()
        thread.join()


def test_an_unhandled_exception_is_reported_once_with_its_request_and_without_secrets(make_settings, tracker):
    settings = make_settings(
        error_tracking={"dsn": tracker}, security={"secret_key": f"{CANARY}-signing-key-{'x' * 20}"}
    )
    configure_error_tracking(settings, component="api")
    app = create_app(settings)

    @app.get("/broken")
    async def broken():
        password = f"{CANARY}-local"
        raise RuntimeError(f"failed with {CANARY}-signing-key-{'x' * 20} {len(password)}")

    response = TestClient(app, raise_server_exceptions=False).get(
        "/broken", headers={"Authorization": f"Bearer {CANARY}.header.value"}
    )
    assert response.status_code == 500
    stop_error_tracking()
    deadline = time.monotonic() + 5
    while not Tracker.received and time.monotonic() < deadline:
        time.sleep(0.02)
    (envelope,) = Tracker.received
    assert CANARY not in envelope
    event = json.loads(envelope.splitlines()[2])
    assert event["exception"]["values"][-1]["type"] == "RuntimeError"
    assert event["tags"]["request_id"] == response.json()["request_id"]
    assert event["tags"]["route"] == "/broken"


def test_a_secret_in_a_tag_is_masked_by_its_value(make_settings, tracker):
    key = f"{CANARY}-signing-key-{'x' * 20}"
    configure_error_tracking(
        make_settings(error_tracking={"dsn": tracker}, security={"secret_key": key}), component="api"
    )
    report_error(RuntimeError("failed"), route=f"/things/{key}")
    stop_error_tracking()
    (envelope,) = Tracker.received
    assert CANARY not in envelope
    assert json.loads(envelope.splitlines()[2])["tags"]["route"] == "/things/**********"


def test_an_api_key_is_masked_by_its_look(make_settings, tracker):
    key = new_key()
    configure_error_tracking(make_settings(error_tracking={"dsn": tracker}), component="api")
    report_error(RuntimeError(f"nobody has {key}"), route=f"/things/{key}")
    stop_error_tracking()
    (envelope,) = Tracker.received
    assert key not in envelope
    assert "nobody has ****" in envelope


def test_an_answer_of_ours_is_not_a_defect(make_settings, tracker):
    settings = make_settings(error_tracking={"dsn": tracker})
    configure_error_tracking(settings, component="api")
    assert TestClient(create_app(settings)).get("/nowhere").status_code == 404
    stop_error_tracking()
    assert Tracker.received == []


def test_without_a_dsn_reporting_does_nothing():
    report_error(RuntimeError("x"), request_id="r")


BROKEN = """
from services.api.main import app

@app.get("/broken")
async def broken():
    raise RuntimeError("broken")
"""
ENDING = """
import sys
from scalable_fastapi_system.infra.error_tracking import configure_error_tracking, report_error
from scalable_fastapi_system.infra.settings import load_settings

configure_error_tracking(load_settings(), component="worker")
report_error(RuntimeError("first"))
report_error(RuntimeError("last"))
"""


def reported():
    return [json.loads(envelope.splitlines()[2])["exception"]["values"][-1] for envelope in Tracker.received]


def test_what_is_queued_when_a_process_ends_is_sent(tracker):
    Tracker.seconds = 0.3  # the second waits behind the first
    subprocess.run(
        [sys.executable, "-c", ENDING], env={"ERROR_TRACKING__DSN": tracker}, cwd=REPOSITORY, check=True
    )
    assert [error["value"] for error in reported()] == ["first", "last"]


def test_what_is_queued_when_the_api_is_told_to_end_is_sent(tracker, tmp_path):
    """Its processes end by the signal: what Python does at its end is not done."""
    (tmp_path / "broken_api.py").write_text(BROKEN)
    command = ("-m", "gunicorn", "-c", "services/api/gunicorn.conf.py", "--pythonpath", str(tmp_path))
    api = ServiceProcess("api", (*command, "broken_api:app"), tmp_path, {"ERROR_TRACKING__DSN": tracker})
    try:
        api.start(until="/health/live")
        Tracker.seconds = 0.3
        assert [api.status("/broken"), api.status("/broken")] == [500, 500]
        api.child.stop(grace_seconds=30)
    finally:
        api.kill()
    assert len(reported()) == 2


def test_a_tracker_that_is_away_does_not_keep_a_process(tracker):
    Tracker.seconds = 20.0
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", ENDING], env={"ERROR_TRACKING__DSN": tracker}, cwd=REPOSITORY, check=True
    )
    assert time.monotonic() - began < 15
