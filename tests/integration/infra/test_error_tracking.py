"""A defect reaches the tracker with its request id and without secrets; without a DSN nothing is sent."""

import gzip
import http.server
import json
import threading
import time

import pytest
from fastapi.testclient import TestClient
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.error_tracking import (
    configure_error_tracking,
    report_error,
    stop_error_tracking,
)

CANARY = "canary-51cd"


class Tracker(http.server.BaseHTTPRequestHandler):
    received = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(body.decode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def tracker():
    Tracker.received = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tracker) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://public@127.0.0.1:{server.server_port}/1"
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

    response = TestClient(app).get("/broken", headers={"Authorization": f"Bearer {CANARY}.header.value"})
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


def test_an_answer_of_ours_is_not_a_defect(make_settings, tracker):
    settings = make_settings(error_tracking={"dsn": tracker})
    configure_error_tracking(settings, component="api")
    assert TestClient(create_app(settings)).get("/nowhere").status_code == 404
    stop_error_tracking()
    assert Tracker.received == []


def test_without_a_dsn_reporting_does_nothing():
    report_error(RuntimeError("x"), request_id="r")
