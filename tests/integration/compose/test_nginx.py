"""What Compose's nginx does for the API, with real requests through it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from hack.dev.layout import REPOSITORY
from tests.integration.compose.conftest import Edge
from tests.support.service_processes import await_true

pytestmark = [
    pytest.mark.xdist_group("compose"),  # one nginx and one API for all
    pytest.mark.only_on("postgres", reason="compose.yaml runs PostgreSQL"),
]

JSON = {"Content-Type": "application/json"}
USER = {"username": "edge_user", "email": "edge@example.com", "password": "testpassword123"}


@pytest.fixture(scope="module")
def token(edge: Edge) -> str:
    status, _, body = edge.request("POST", "/auth/register", json.dumps(USER), JSON)
    assert status == 200, body
    form = f"username={USER['username']}&password={USER['password']}"
    status, _, body = edge.request(
        "POST", "/auth/login", form, {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert status == 200, body
    answer = json.loads(body)
    return str(answer.get("access_token") or answer["data"]["access_token"])


def test_the_configuration_is_valid(edge: Edge) -> None:
    done = subprocess.run(
        ["/usr/sbin/nginx", "-t", "-e", "stderr", "-c", str(edge.config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr.replace("http2", "")


def test_a_user_signs_in_and_is_known_over_tls(edge: Edge, token: str) -> None:
    status, headers, body = edge.request("GET", "/users/me", headers={"Authorization": f"Bearer {token}"})
    assert status == 200
    assert json.loads(body)["data"]["username"] == USER["username"]
    assert headers["Strict-Transport-Security"]
    assert "Server" not in headers or "/" not in headers["Server"]


def plain_http(edge: Edge) -> bytes:
    with socket.create_connection(("127.0.0.1", edge.plain_port), timeout=30) as plain:
        plain.sendall(
            b"GET /users/me?a=1 HTTP/1.1\r\nHost: api.example.com:8080\r\nConnection: close\r\n\r\n"
        )
        return plain.makefile("rb").read()


def test_plain_http_is_sent_to_tls(edge: Edge) -> None:
    answer = plain_http(edge)
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert b"Location: https://api.example.com/users/me?a=1\r\n" in answer


def test_the_way_to_tls_names_a_port_that_is_not_443(edge: Edge) -> None:
    nginx = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]["nginx"]
    edge.name_tls_port(nginx, "443")
    assert b"Location: https://api.example.com/users/me?a=1\r\n" in plain_http(edge)
    edge.name_tls_port(nginx, "127.0.0.1:8443")
    await_true(
        lambda: b"Location: https://api.example.com:8443/users/me?a=1\r\n" in plain_http(edge),
        what="nginx reads its configuration again",
    )


def test_old_tls_is_refused(edge: Edge) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is the server that refuses
    with pytest.deprecated_call():
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", edge.port), timeout=30) as plain,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        context.wrap_socket(plain),
    ):
        pass


def test_one_request_id_runs_through_all(edge: Edge) -> None:
    _, headers, body = edge.request("GET", "/users/me", headers={"X-Request-ID": "mine-1"})
    assert headers["X-Request-ID"] == json.loads(body)["request_id"] == "mine-1"
    await_true(
        lambda: any(json.loads(line)["request_id"] == "mine-1" for line in edge.access_log()),
        what="nginx writes its line",
    )

    _, headers, body = edge.request("GET", "/users/me", headers={"X-Request-ID": "not one: {}"})
    assert headers["X-Request-ID"] == json.loads(body)["request_id"] != "not one: {}"


def test_an_address_that_a_client_claims_is_not_passed_on(edge: Edge) -> None:
    edge.request("GET", "/users/me", headers={"X-Forwarded-For": "203.0.113.7", "X-Request-ID": "spoofed-1"})
    await_true(lambda: "spoofed-1" in edge.api.log(), what="the API writes its line")
    lines = [line for line in edge.api.log().splitlines() if "spoofed-1" in line]
    assert not any("203.0.113.7" in line for line in lines)


def test_a_body_that_is_too_large_is_refused_in_the_apis_shape(edge: Edge, token: str) -> None:
    status, headers, body = edge.request(
        "POST",
        "/process-data",
        b"x" * (1024 * 1024 + 1),
        {**JSON, "Authorization": f"Bearer {token}", "X-Request-ID": "large-1"},
    )
    problem = json.loads(body)
    assert (status, problem["status"], problem["error_code"]) == (413, 413, "PAYLOAD_TOO_LARGE")
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["X-Request-ID"] == problem["request_id"] == "large-1"


def test_a_table_larger_than_that_is_taken_and_profiled(edge: Edge, token: str) -> None:
    table = b"a,b\n" + b"1,some text\n" * 200_000  # 2.4 MB
    body = (
        b'--part\r\nContent-Disposition: form-data; name="file"; filename="t.csv"\r\nContent-Type: text/csv\r\n\r\n'
        + table
        + b"\r\n--part--\r\n"
    )
    status, _, answer = edge.request(
        "POST",
        "/datasets",
        body,
        {"Authorization": f"Bearer {token}", "Content-Type": "multipart/form-data; boundary=part"},
    )
    assert status in (201, 202), answer
    task_id = json.loads(answer)["data"]["task_id"]

    # the events come as they happen and end with the task: nginx does not keep them back
    connection = edge.connect()
    connection.request("GET", f"/tasks/{task_id}/events", headers={"Authorization": f"Bearer {token}"})
    stream = connection.getresponse()
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    events = stream.read().decode()
    connection.close()
    assert "succeeded" in events


def test_metrics_stay_inside(edge: Edge) -> None:
    assert edge.api.status("/metrics") == 200
    assert edge.request("GET", "/metrics")[0] == 404


def test_a_flood_from_one_address_is_told_to_slow_down(edge: Edge) -> None:
    def sign_in(_: int) -> tuple[int, str | None, bytes]:
        status, headers, body = edge.request("POST", "/auth/refresh", "{}", JSON)
        return status, headers["Retry-After"], body

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(sign_in, range(200)))
    refused = [(retry, json.loads(body)) for status, retry, body in answers if status == 429]
    assert {status for status, *_ in answers} == {422, 429}
    assert refused
    assert all(retry == "1" and problem["error_code"] == "RATE_LIMIT_EXCEEDED" for retry, problem in refused)


def test_a_client_that_sends_no_head_is_let_go(edge: Edge) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", edge.port), timeout=60) as plain,
        context.wrap_socket(plain) as slow,
    ):
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):  # a reset is as good
            assert not slow.recv(1)


def test_an_api_that_is_away_is_told_in_its_shape(edge: Edge) -> None:
    edge.api.kill()
    try:
        status, headers, body = edge.request("GET", '/users/me%22%5C?x="')
    finally:
        edge.api.start()
    problem = json.loads(body)
    assert (status, problem["error_code"], headers["Retry-After"]) == (502, "BAD_GATEWAY", "2")
    assert problem["instance"] == ""
    assert edge.request("GET", "/health/live")[0] == 200
