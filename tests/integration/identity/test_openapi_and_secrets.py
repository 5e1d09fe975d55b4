"""What OpenAPI says of identity, and rows 25 and 7's neighbour: no secret in logs, none compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.logging import configure_logging

from tests.integration.identity.conftest import PASSWORD, Api, start_api

pytestmark = pytest.mark.databases("sqlite", "postgres")


@pytest.fixture
async def schema(api: Api) -> dict[str, Any]:
    response = await api.client.get("/openapi.json")
    found: dict[str, Any] = response.json()
    return found


def security_of(schema: dict[str, Any], method: str, path: str) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = schema["paths"][path][method].get("security", [])
    return found


async def test_scopes_and_roles_are_visible(schema: dict[str, Any]) -> None:
    assert security_of(schema, "get", "/users/me") == [
        {"BearerToken": ["profile:read"]},
        {"ApiKey": ["profile:read"]},
    ]
    assert security_of(schema, "get", "/admin/users")[0] == {"BearerToken": ["admin:users"]}
    assert schema["paths"]["/admin/users"]["get"]["x-required-roles"] == ["admin"]
    assert security_of(schema, "post", "/api-keys") == [{"BearerToken": ["account:manage"]}], (
        "no key makes keys"
    )
    assert security_of(schema, "post", "/auth/login") == []
    schemes = schema["components"]["securitySchemes"]
    flow = schemes["BearerToken"]["flows"]["password"]
    assert flow["tokenUrl"] == "/auth/login"
    assert "profile:read" in flow["scopes"]
    assert schemes["ApiKey"] == {
        "type": "apiKey", "in": "header", "name": "X-API-Key", "description": schemes["ApiKey"]["description"],
    }  # fmt: skip


async def test_sign_in_is_described_as_a_form_and_as_json(schema: dict[str, Any]) -> None:
    body = schema["paths"]["/auth/login"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-www-form-urlencoded"}
    assert body["application/json"]["schema"]["additionalProperties"] is False


async def test_no_secret_reaches_a_log_line(
    identity_settings: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-Passw0rd-of-the-log"
    for log_format in ("json", "console"):
        settings = identity_settings(logging={"format": log_format, "level": "DEBUG"})
        configure_logging(settings)
        async with start_api(settings) as api:
            await api.register("ada", canary)
            account = await api.again("ada", canary)
            await api.sign_in("ada", canary + "x")
            await account.call("GET", f"/users/me?token={canary}")
            await account.refresh()
            made = await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["profile:read"]})
            key = made.json()["data"]["key"]
            await api.client.get("/users/me", headers={"X-API-Key": key})

            def explode(*_args: Any, **_options: Any) -> None:
                secret = canary  # a local variable, as a traceback with locals would show it
                raise RuntimeError(f"cannot go on with {len(secret)} letters")

            with monkeypatch.context() as patched:
                patched.setattr(api.identity.throttle, "admit", explode)
                assert (await api.sign_in("ada", canary)).status_code == 500
            written = "".join(capsys.readouterr())
            assert "unhandled exception" in written
            secrets = [
                canary,
                key[12:],
                account.tokens["access_token"][-30:],
                account.tokens["refresh_token"][-30:],
            ]
            assert [secret for secret in secrets if secret in written] == []


async def test_answers_that_carry_secrets_are_neither_compressed_nor_kept(api: Api) -> None:
    await api.register("ada")
    headers = {"Accept-Encoding": "gzip"}
    response = await api.client.post(
        "/auth/login", data={"username": "ada", "password": PASSWORD}, headers=headers
    )
    assert len(response.content) > 1000
    assert "content-encoding" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    account = await api.again("ada")
    for path in ("/users/me", "/auth/sessions", "/api-keys"):
        assert (await account.call("GET", path)).headers["cache-control"] == "no-store"
