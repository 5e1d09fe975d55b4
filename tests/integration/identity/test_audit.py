"""Row 24: `source:subject:action` in the transaction of the deed, and nobody changes or deletes it."""

from __future__ import annotations

from typing import Any

import pytest
from scalable_fastapi_system.identity.audit import NO_CLIENT
from scalable_fastapi_system.identity.service import accounts
from scalable_fastapi_system.kit.pagination import encode_cursor
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.integration.identity.conftest import PASSWORD, Api

pytestmark = pytest.mark.databases("sqlite", "postgres")


async def events(api: Api) -> list[str]:
    rows = await api.statements("SELECT source, subject, action FROM audit_log ORDER BY at")
    return [f"{row['source']}:{row['subject']}:{row['action']}" for row in rows]


async def test_what_happens_to_an_account_is_written_down(api: Api) -> None:
    account = await api.account("ada")
    await api.sign_in("ada", "wrong password")
    await api.sign_in("nobody", "wrong password")
    await account.call("PUT", "/users/me", json={"email": "new@example.com"})
    key = (await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["profile:read"]})).json()[
        "data"
    ]
    await account.call("DELETE", f"/api-keys/{key['id']}")
    await account.call(
        "POST",
        "/users/me/password",
        json={"current_password": PASSWORD, "new_password": "another long password"},
    )
    await account.call("POST", "/auth/logout", json={"everywhere": True})
    assert await events(api) == [
        "user:1:user:1:registered",
        "user:1:user:1:signed_in",
        "anonymous:user:1:sign_in_failed",
        "anonymous:user:unknown:sign_in_failed",
        "user:1:user:1:email_changed",
        f"user:1:api_key:{key['id']}:created",
        f"user:1:api_key:{key['id']}:revoked",
        "user:1:user:1:password_changed",
        "user:1:user:1:signed_out_everywhere",
    ]


async def test_entry_says_from_where_and_in_which_request(api: Api) -> None:
    await api.client.post(
        "/auth/register",
        json={"username": "ada", "email": "ada@example.com", "password": PASSWORD},
        headers={"X-Request-ID": "my-request-1", "User-Agent": "tests/1 \x07bell " + "x" * 500},
    )
    (row,) = await api.statements("SELECT * FROM audit_log")
    assert row["request_id"] == "my-request-1"
    assert row["ip_address"] == "127.0.0.1"
    assert row["user_agent"].startswith("tests/1 bell")
    assert len(row["user_agent"]) <= 200


async def test_spoofed_forwarded_address_does_not_reach_the_log(api: Api) -> None:
    await api.client.post(
        "/auth/register",
        json={"username": "ada", "email": "ada@example.com", "password": PASSWORD},
        headers={"X-Forwarded-For": "203.0.113.9"},
    )
    (row,) = await api.statements("SELECT ip_address FROM audit_log")
    assert row["ip_address"] == "127.0.0.1"


async def test_deed_that_is_rolled_back_leaves_no_entry(api: Api) -> None:
    class FailedError(Exception):
        pass

    async def fail() -> None:
        async with api.database.transaction() as session:
            await accounts.register(
                session, username="ada", email="ada@example.com", hashed_password="x", client=NO_CLIENT
            )
            raise FailedError

    with pytest.raises(FailedError):
        await fail()
    assert await events(api) == []
    assert await api.statements("SELECT id FROM users") == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET action = 'nothing'",
        "UPDATE audit_log SET action = 'nothing' WHERE 1 = 0",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ],
)
async def test_application_cannot_change_or_delete_an_entry(api: Api, statement: str) -> None:
    if api.database.backend != "postgresql" and ("TRUNCATE" in statement or "1 = 0" in statement):
        pytest.skip("only PostgreSQL has triggers of statements, TRUNCATE among them")
    await api.register("ada")

    async def attempt() -> None:
        async with api.database.transaction() as session:
            await session.execute(text(statement))

    with pytest.raises(DBAPIError, match="append-only"):
        await attempt()
    assert await events(api) == ["user:1:user:1:registered"]


async def test_no_secret_reaches_the_log(api: Api) -> None:
    account = await api.account("ada")
    canary = "canary password 1234"
    await account.call(
        "POST", "/users/me/password", json={"current_password": PASSWORD, "new_password": canary}
    )
    await api.sign_in("canary-as-a-name", canary)
    written = str(await api.statements("SELECT * FROM audit_log"))
    tokens = [account.tokens["access_token"][-20:], account.tokens["refresh_token"][-20:]]
    for secret in (canary, PASSWORD, "canary-as-a-name", *tokens):
        assert secret not in written


async def test_log_is_read_by_administrators_alone_newest_first_and_by_subject(api: Api) -> None:
    admin, account = await api.account("root_user", role="admin"), await api.account("ada")
    assert (await account.call("GET", "/admin/audit")).status_code == 403
    assert (await api.client.get("/admin/audit")).status_code == 401
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    body = (await admin.call("GET", "/admin/audit", params={"subject": f"user:{user_id}"})).json()
    assert [entry["event"] for entry in body["data"]] == [
        f"user:{user_id}:user:{user_id}:signed_in",
        f"user:{user_id}:user:{user_id}:registered",
    ]
    page = (await admin.call("GET", "/admin/audit", params={"limit": 2})).json()
    rest: dict[str, Any] = (
        await admin.call("GET", "/admin/audit", params={"limit": 100, "cursor": page["next_cursor"]})
    ).json()
    assert len(page["data"]) == 2
    assert not {entry["id"] for entry in page["data"]} & {entry["id"] for entry in rest["data"]}
    assert (await admin.call("GET", "/admin/audit", params={"subject": "a\x00b"})).status_code == 422


async def test_users_are_listed_for_administrators_page_by_page(api: Api) -> None:
    admin = await api.account("root_user", role="admin")
    for number in range(4):
        await api.register(f"user{number}")
    first = (await admin.call("GET", "/admin/users", params={"limit": 3})).json()
    second = (
        await admin.call("GET", "/admin/users", params={"limit": 3, "cursor": first["next_cursor"]})
    ).json()
    assert [user["username"] for user in first["data"] + second["data"]] == [
        "root_user", "user0", "user1", "user2", "user3",
    ]  # fmt: skip
    assert second["next_cursor"] is None
    admins = (await admin.call("GET", "/admin/users", params={"role": "admin"})).json()["data"]
    assert [user["username"] for user in admins] == ["root_user"]


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, -1])
async def test_a_cursor_beyond_any_users_number_is_refused(api: Api, number: int) -> None:
    admin = await api.account("root_user", role="admin")
    answer = await admin.call("GET", "/admin/users", params={"cursor": encode_cursor([number])})
    assert answer.status_code == 422
