"""WebSockets: the hosts that may open one, their request id and log line, and the warning where nothing serves them."""

import pytest
import structlog
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.testclient import TestClient
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web import websockets
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from starlette.websockets import WebSocketDisconnect


def make_app(**security):
    settings = Settings(_env_file=None, security=security)
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(inner, owner=owner, settings=settings, metrics=None)
    )

    @app.websocket("/ws/{name}")
    async def echo(socket: WebSocket, name: str):
        await socket.accept()
        await socket.send_json(
            {
                "request_id": socket.state.request_id,
                "client": socket.state.client_address,
                "scheme": socket.scope["scheme"],
            }
        )
        if name == "broken":
            raise RuntimeError("broken")
        await socket.close()

    return app


def test_only_allowed_hosts_open_a_websocket():
    client = TestClient(make_app(allowed_hosts=["api.example"]))
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/ws/a"):
        pass
    assert refused.value.code == 1008
    with client.websocket_connect("/ws/a", headers={"host": "api.example:8000"}) as socket:
        assert socket.receive_json()["scheme"] == "ws"


def test_a_websocket_has_a_request_id_and_a_log_line():
    client = TestClient(make_app())
    with (
        structlog.testing.capture_logs() as lines,
        client.websocket_connect("/ws/a", headers={"x-request-id": "mine"}) as socket,
    ):
        assert socket.receive_json() == {"request_id": "mine", "client": "testclient", "scheme": "ws"}
    assert [(line["event"], line["path"], line["request_id"]) for line in lines] == [
        ("websocket", "/ws/a", "mine")
    ]
    with client.websocket_connect("/ws/a", headers={"x-request-id": "no id"}) as socket:
        assert len(socket.receive_json()["request_id"]) == 32


def test_a_websocket_behind_a_proxy_knows_its_scheme_and_client():
    client = TestClient(make_app(trusted_proxies=["10.0.0.1"]), client=("10.0.0.1", 4000))
    headers = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
    with client.websocket_connect("/ws/a", headers=headers) as socket:
        told = socket.receive_json()
    assert (told["client"], told["scheme"]) == ("203.0.113.9", "wss")


def test_a_client_that_leaves_is_no_failure(monkeypatch):
    reported = []
    monkeypatch.setattr(
        "scalable_fastapi_system.web.middleware.report_error", lambda error, **_tags: reported.append(error)
    )
    app = make_app()

    @app.websocket("/echo")
    async def echo(socket: WebSocket):
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    with TestClient(app).websocket_connect("/echo") as socket:
        socket.send_text("a")
        assert socket.receive_text() == "a"
    assert reported == []


def test_a_websocket_that_fails_is_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(
        "scalable_fastapi_system.web.middleware.report_error", lambda error, **_tags: reported.append(error)
    )
    client = TestClient(make_app())
    with pytest.raises(RuntimeError), client.websocket_connect("/ws/broken") as socket:
        socket.receive_json()
        socket.receive_json()
    assert len(reported) == 1


@pytest.mark.parametrize(("installed", "warnings"), [((), 1), (("websockets",), 0), (("wsproto",), 0)])
def test_the_start_warns_where_no_library_serves_the_websockets_that_there_are(
    monkeypatch, installed, warnings
):
    monkeypatch.setattr(websockets, "find_spec", lambda name: name if name in installed else None)
    app = create_app(Settings(_env_file=None))
    router = APIRouter(prefix="/live")

    @router.websocket("/prices")
    async def prices(socket: WebSocket):
        pass

    app.include_router(router)
    with structlog.testing.capture_logs() as lines, TestClient(app):
        pass
    found = [line for line in lines if "websockets are not served" in line["event"]]
    assert len(found) == warnings
    assert all((line["log_level"], line["paths"]) == ("warning", ["/live/prices"]) for line in found)


def test_who_has_no_websockets_is_told_nothing(monkeypatch):
    monkeypatch.setattr(websockets, "find_spec", lambda _name: None)
    with structlog.testing.capture_logs() as lines:
        websockets.warn_of_missing_library(FastAPI())
    assert lines == []
