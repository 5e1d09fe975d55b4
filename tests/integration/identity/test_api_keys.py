"""Row 20: what a key may do, how it is stored, how it ends; by X-API-Key and as a bearer token."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from scalable_fastapi_system.identity.api_key_format import new_key
from scalable_fastapi_system.infra.database.observe import StatementCount, counted

from tests.integration.identity.conftest import Account, Api, start_api

pytestmark = pytest.mark.databases("sqlite", "postgres")


async def make_key(account: Account, **body: Any) -> dict[str, Any]:
    response = await account.call(
        "POST", "/api-keys", json={"name": "reports", "scopes": ["profile:read"], **body}
    )
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()["data"]
    return made


async def call(
    api: Api, key: str, method: str = "GET", path: str = "/users/me", **options: Any
) -> httpx.Response:
    return await api.client.request(method, path, headers={"X-API-Key": key}, **options)


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
async def test_key_acts_for_its_user_by_either_header(api: Api, header: str) -> None:
    made = await make_key(await api.account())
    value = made["key"] if header == "X-API-Key" else f"Bearer {made['key']}"
    for _ in range(3):
        response = await api.client.get("/users/me", headers={header: value})
        assert response.status_code == 200
        assert response.json()["username"] == "ada"


async def test_key_may_do_what_its_scopes_name_and_nothing_else(api: Api) -> None:
    account = await api.account()
    reader = (await make_key(account))["key"]
    writer = (await make_key(account, scopes=["profile:*"]))["key"]
    everything = (await make_key(account, scopes=["*"]))["key"]
    assert (await call(api, reader, "PUT", json={})).status_code == 403
    assert (await call(api, writer, "PUT", json={})).status_code == 200
    assert (await call(api, everything)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("GET", "/auth/sessions"),
        ("POST", "/auth/logout"),
        ("POST", "/users/me/password"),
        ("PUT", "/users/me"),
        ("GET", "/admin/users"),
    ],
)
async def test_no_key_can_change_how_its_user_signs_in(api: Api, method: str, path: str) -> None:
    key = (await make_key(await api.account(), scopes=["*"]))["key"]
    bodies = {
        "/api-keys": {"name": "more", "scopes": ["*"]},
        "/users/me/password": {"current_password": "x", "new_password": "another long password"},
        "/users/me": {"email": "thief@example.com"},
    }
    body = bodies.get(path) if method != "GET" else None
    assert (await call(api, key, method, path, json=body)).status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": []},
        {"scopes": ["things:fly"]},
        {"scopes": ["account:manage"]},
        {"scopes": ["profile"]},
        {"name": ""},
        {"name": "a\u0000b"},
        {"expires_in_days": 0},
        {"user_id": 1},
        {"key_hash": "x"},
    ],
    ids=str,
)
async def test_key_that_makes_no_sense_is_refused(api: Api, change: dict[str, Any]) -> None:
    account = await api.account()
    body = {"name": "reports", "scopes": ["profile:read"], **change}
    assert (await account.call("POST", "/api-keys", json=body)).status_code == 422


async def test_admin_scope_is_for_administrators_and_goes_with_their_role(api: Api) -> None:
    admin, account = await api.account("root_user", role="admin"), await api.account()
    body = {"name": "x", "scopes": ["admin:users"]}
    assert (await account.call("POST", "/api-keys", json=body)).status_code == 403
    other = await api.account("other", role="admin")
    key = (await make_key(other, scopes=["admin:users"]))["key"]
    assert (await call(api, key, path="/admin/users")).status_code == 200
    assert (await call(api, key, path="/admin/audit")).status_code == 403
    user_id = (await other.call("GET", "/users/me")).json()["id"]
    await admin.call("PATCH", f"/admin/users/{user_id}", json={"role": "user"})
    assert (await call(api, key, path="/admin/users")).status_code == 403


async def test_key_is_shown_once_and_only_a_keyed_hash_is_stored(api: Api) -> None:
    account = await api.account()
    made = await make_key(account)
    listed = await account.call("GET", "/api-keys")
    assert made["key"] not in listed.text
    assert listed.json()["data"][0]["prefix"] == made["key"][:12]
    (row,) = await api.statements("SELECT * FROM api_keys")
    stored = " ".join(str(value) for value in row.values())
    assert made["key"][12:] not in stored
    assert hashlib.sha256(made["key"].encode()).hexdigest() not in stored
    dumped = await api.statements("SELECT * FROM audit_log")
    assert made["key"][12:] not in str(dumped)


async def test_bad_checksum_costs_no_query_and_an_unknown_key_one(api: Api) -> None:
    key = new_key()
    broken = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert (
        await call(api, new_key())
    ).status_code == 401  # opens a connection, which has statements of its own
    counts = []
    for text in (broken, "sfk_", "sfk_" + "x" * 500, key):
        count = StatementCount()
        token = counted.set(count)
        response = await call(api, text)
        counted.reset(token)
        assert response.status_code == 401
        counts.append(count.total)
    assert counts == [0, 0, 0, 1]


async def test_revoked_key_is_refused_at_once_and_another_users_is_not_there(api: Api) -> None:
    account, stranger = await api.account(), await api.account("bob")
    made = await make_key(account)
    assert (await call(api, made["key"])).status_code == 200
    path = f"/api-keys/{made['id']}"
    assert (await stranger.call("DELETE", path)).status_code == 404
    assert (await stranger.call("POST", path + "/rotate")).status_code == 404
    assert (await call(api, made["key"])).status_code == 200
    assert (await account.call("DELETE", path)).status_code == 200
    assert (await call(api, made["key"])).status_code == 401
    assert (await account.call("DELETE", path)).status_code == 404
    assert (await account.call("POST", path + "/rotate")).status_code == 409


async def test_key_of_a_disabled_user_is_refused(api: Api) -> None:
    admin, account = await api.account("root_user", role="admin"), await api.account()
    made = await make_key(account)
    assert (await call(api, made["key"])).status_code == 200
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": False})
    assert (await call(api, made["key"])).status_code == 401


def move_authenticators_clock(api: Api, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    """So that what it remembers has become older by so much."""
    monkeypatch.setattr(api.identity.authenticator, "_monotonic", lambda: time.monotonic() + seconds)


async def test_key_expires_also_while_it_is_remembered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    account = await api.account()
    made = await make_key(account, expires_in_days=1)
    async with api.database.transaction() as session:
        from uuid import UUID

        from scalable_fastapi_system.identity.repository import api_keys

        await api_keys.end_at(session, UUID(made["id"]), api.identity.clock.now() + timedelta(seconds=10))
    assert (await call(api, made["key"])).status_code == 200
    move_authenticators_clock(api, monkeypatch, seconds=11)
    assert (await call(api, made["key"])).status_code == 401


async def test_both_keys_are_good_in_the_overlap_of_a_rotation(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await api.account()
    old = await make_key(account, scopes=["profile:*"])
    response = await account.call("POST", f"/api-keys/{old['id']}/rotate", json={"overlap_seconds": 10})
    assert response.status_code == 201
    new = response.json()["data"]
    assert (new["name"], new["scopes"], new["rotated_from"]) == (old["name"], old["scopes"], old["id"])
    assert (await call(api, old["key"])).status_code == 200
    assert (await call(api, new["key"])).status_code == 200
    again = await account.call("POST", f"/api-keys/{old['id']}/rotate")
    assert again.status_code == 409, "a key has one successor"
    move_authenticators_clock(api, monkeypatch, seconds=11)
    assert (await call(api, old["key"])).status_code == 401
    assert (await call(api, new["key"])).status_code == 200


@pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")
async def test_of_several_rotations_of_a_key_at_once_one_succeeds(api: Api) -> None:
    account = await api.account()
    old = await make_key(account)
    responses = await asyncio.gather(
        *(account.call("POST", f"/api-keys/{old['id']}/rotate") for _ in range(4))
    )
    assert sorted(response.status_code for response in responses) == [201, 409, 409, 409]
    assert len(await api.statements("SELECT id FROM api_keys")) == 2


async def test_rotation_without_overlap_ends_the_former_key_at_once(api: Api) -> None:
    account = await api.account()
    old = await make_key(account)
    assert (await call(api, old["key"])).status_code == 200
    await account.call("POST", f"/api-keys/{old['id']}/rotate", json={"overlap_seconds": 0})
    assert (await call(api, old["key"])).status_code == 401


async def test_last_use_is_written_down_once_a_minute(api: Api) -> None:
    account = await api.account()
    made = await make_key(account)
    assert made["last_used_at"] is None
    for _ in range(5):
        await call(api, made["key"])
        api.identity.authenticator.forget_all()
    (first,) = await api.statements("SELECT last_used_at FROM api_keys")
    assert first["last_used_at"] is not None
    listed = (await account.call("GET", "/api-keys")).json()["data"]
    assert listed[0]["last_used_at"] is not None


async def test_keys_survive_a_change_of_the_secret_and_move_to_the_new_one(
    identity_settings: Callable[..., Any],
) -> None:
    old, new = "the old secret, long enough for tests", "the new secret, long enough for tests"
    steps = [{"secret_key": old}, {"secret_key": new, "previous_secret_keys": [old]}, {"secret_key": new}]
    key = ""
    for security in steps:
        settings = identity_settings(security=security)
        async with start_api(settings) as api:
            if not key:
                key = (await make_key(await api.account()))["key"]
            assert (await call(api, key)).status_code == 200, "used under each secret in turn"


async def test_list_goes_on_from_its_cursor(api: Api) -> None:
    account = await api.account()
    made = [(await make_key(account, name=f"key {number}"))["id"] for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        body = (await account.call("GET", "/api-keys", params=params)).json()
        seen += [entry["id"] for entry in body["data"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(made)
    assert (await account.call("GET", "/api-keys", params={"cursor": "nonsense"})).status_code == 422


async def test_number_of_keys_is_limited(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalable_fastapi_system.identity.service.api_keys.MAX_KEYS_PER_USER", 2)
    account = await api.account()
    first = await make_key(account)
    await make_key(account)
    body = {"name": "one more", "scopes": ["profile:read"]}
    assert (await account.call("POST", "/api-keys", json=body)).status_code == 409
    await account.call("DELETE", f"/api-keys/{first['id']}")
    assert (await account.call("POST", "/api-keys", json=body)).status_code == 201


@pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")
async def test_number_of_keys_is_limited_also_where_they_are_made_at_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.identity.service.api_keys.MAX_KEYS_PER_USER", 2)
    account = await api.account()
    body = {"name": "reports", "scopes": ["profile:read"]}
    responses = await asyncio.gather(*(account.call("POST", "/api-keys", json=body) for _ in range(6)))
    assert sorted(response.status_code for response in responses) == [201, 201, 409, 409, 409, 409]


@pytest.mark.parametrize("has_session", [True, False])
async def test_no_key_is_made_in_a_sign_in_that_has_ended_elsewhere(
    identity_settings: Callable[..., Any], has_session: bool
) -> None:
    """Another process remembers the caller for the revocation delay; a key would outlast it."""
    async with start_api(identity_settings()) as one, start_api(identity_settings()) as two:
        account = await one.account()
        if not has_session:
            await account.without_session()
        made = await make_key(account)
        elsewhere = Account(two, "ada", account.tokens)
        assert (await elsewhere.call("GET", "/users/me")).status_code == 200
        assert (await account.call("POST", "/auth/logout", json={"everywhere": True})).status_code == 200
        assert (await elsewhere.call("GET", "/users/me")).status_code == 200, "it is remembered there"
        body = {"name": "forever", "scopes": ["*"]}
        assert (await elsewhere.call("POST", "/api-keys", json=body)).status_code == 401
        assert (await elsewhere.call("POST", f"/api-keys/{made['id']}/rotate")).status_code == 401
        assert len(await one.statements("SELECT id FROM api_keys")) == 1
