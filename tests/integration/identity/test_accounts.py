"""Registering and changing one's own user, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import RateLimitExceededException

from tests.integration.identity.conftest import PASSWORD, Account, Api, start_api

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")


async def test_registered_user_is_answered_as_the_guide_has_it(api: Api) -> None:
    response = await api.register("testuser")
    assert response.status_code == 200
    body = response.json()
    assert body["success"] is True
    assert body["data"]["username"] == "testuser"
    assert body["user"] == body["data"]
    assert body["data"]["email"] == "testuser@example.com"
    assert (body["data"]["role"], body["data"]["is_active"], body["data"]["is_admin"]) == (
        "user",
        True,
        False,
    )
    assert "password" not in response.text


@pytest.mark.parametrize(
    ("username", "email"),
    [
        ("testuser", "other@example.com"),
        ("TestUser", "other@example.com"),
        ("another", "testuser@example.com"),
        ("another", "TestUser@EXAMPLE.com"),
    ],
)
async def test_name_or_address_that_is_taken_whatever_the_case_is_refused_without_telling_which(
    api: Api, username: str, email: str
) -> None:
    await api.register("testuser")
    response = await api.client.post(
        "/auth/register", json={"username": username, "email": email, "password": PASSWORD}
    )
    assert response.status_code == 400
    assert response.json()["message"] == "Username or email already registered"


async def test_letters_of_a_name_are_kept_as_they_were_typed(api: Api) -> None:
    account = await api.account("AdaLovelace")
    assert (await account.call("GET", "/users/me")).json()["username"] == "AdaLovelace"
    assert (await api.sign_in("adalovelace")).status_code == 200
    assert (await api.sign_in("AdaLovelace@Example.com")).status_code == 200, "the address signs in too"


async def test_of_twenty_registrations_of_one_name_at_once_one_succeeds(api: Api) -> None:
    responses = await asyncio.gather(*(api.register("ada") for _ in range(20)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200] + [400] * 19
    assert len(await api.statements("SELECT id FROM users")) == 1


@pytest.mark.parametrize("injected", [{"is_admin": True}, {"role": "admin"}, {"id": 1}, {"is_active": False}])
async def test_injected_member_is_refused_and_never_persists(api: Api, injected: dict[str, Any]) -> None:
    body = {"username": "mallory", "email": "mallory@example.com", "password": PASSWORD, **injected}
    response = await api.client.post("/auth/register", json=body)
    assert response.status_code == 422
    account = await api.account("ada")
    assert (await account.call("PUT", "/users/me", json=injected)).status_code == 422
    assert [dict(row) for row in await api.statements("SELECT username, role FROM users")] == [
        {"username": "ada", "role": "user"}
    ]


async def test_error_does_not_repeat_the_password(api: Api) -> None:
    canary = "Canary7"
    for body in (
        {"username": "ada", "email": "ada@example.com", "password": canary},
        {"username": canary, "email": "x", "password": {"is": canary}},
    ):
        response = await api.client.post("/auth/register", json=body)
        assert response.status_code == 422
        assert canary not in response.text
    response = await api.client.post("/auth/login", json={"username": "", "password": canary})
    assert response.status_code == 422
    assert canary not in response.text


async def test_own_user_is_at_the_top_and_in_data(api: Api) -> None:
    account = await api.account("ada")
    body = (await account.call("GET", "/users/me")).json()
    assert body["data"]["username"] == body["username"] == "ada"
    assert body["id"] == body["data"]["id"]


async def test_changed_address_is_read_back_at_once_and_its_case_does_not_count(api: Api) -> None:
    account = await api.account("ada")
    for number in range(3):
        email = f"Updated{number}@Example.com"
        response = await account.call("PUT", "/users/me", json={"email": email})
        assert response.status_code == 200
        assert response.json()["data"]["email"] == email.lower()
        assert (await account.call("GET", "/users/me")).json()["email"] == email.lower()


async def test_address_of_another_cannot_be_taken_over(api: Api) -> None:
    account = await api.account("ada")
    await api.register("bob")
    response = await account.call("PUT", "/users/me", json={"email": "BOB@example.com"})
    assert response.status_code == 400
    assert (await account.call("GET", "/users/me")).json()["email"] == "ada@example.com"


async def test_address_is_changed_three_times_at_once_taken_ones_included(api: Api) -> None:
    """Else one account could have messages sent to any number of strangers, and ask who has an account."""
    account = await api.account("ada")
    other = await api.account("bob")
    for email, status in (("stranger@example.com", 200), ("bob@example.com", 400), ("x@example.com", 200)):
        assert (await account.call("PUT", "/users/me", json={"email": email})).status_code == status
    for email in ("bob@example.com", "nobody@example.com"):
        refused = await account.call("PUT", "/users/me", json={"email": email})
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "600"
    assert (await account.call("GET", "/users/me")).json()["email"] == "x@example.com"
    assert (await account.call("PUT", "/users/me", json={})).status_code == 200
    assert (await other.call("PUT", "/users/me", json={"email": "y@example.com"})).status_code == 200


async def test_address_that_the_caller_has_already_is_no_change_of_it(api: Api) -> None:
    account = await api.account("ada")
    for _ in range(4):
        response = await account.call("PUT", "/users/me", json={"email": "Ada@example.com"})
        assert response.status_code == 200
    for number in range(3):
        changed = await account.call("PUT", "/users/me", json={"email": f"new{number}@example.com"})
        assert changed.status_code == 200
    assert (await account.call("PUT", "/users/me", json={"email": "new3@example.com"})).status_code == 429
    assert (await account.call("PUT", "/users/me", json={"email": "new2@example.com"})).status_code == 200


@pytest.mark.parametrize("has_session", [True, False])
async def test_address_is_not_changed_in_a_sign_in_that_has_ended_elsewhere(
    identity_settings: Callable[..., Settings], has_session: bool
) -> None:
    """Another process remembers the caller for the revocation delay; with the address goes the account."""
    async with start_api(identity_settings()) as one, start_api(identity_settings()) as two:
        account = await one.account("ada")
        if not has_session:
            await account.without_session()
        elsewhere = Account(two, "ada", account.tokens)
        assert (await elsewhere.call("GET", "/users/me")).status_code == 200
        assert (await account.call("POST", "/auth/logout")).status_code == 200
        assert (await elsewhere.call("GET", "/users/me")).status_code == 200, "it is remembered there"
        body = {"email": "thief@example.com"}
        assert (await elsewhere.call("PUT", "/users/me", json=body)).status_code == 401
        (row,) = await one.statements("SELECT email FROM users")
        assert row["email"] == "ada@example.com"


async def test_token_without_a_session_that_was_made_since_the_others_ended_is_good(api: Api) -> None:
    account = await api.account("ada")
    await account.without_session()
    assert (await account.call("POST", "/auth/logout")).status_code == 200
    assert (await account.call("PUT", "/users/me", json={"email": "x@example.com"})).status_code == 401
    await asyncio.sleep(1.1)  # a token tells the second in which it was made
    account = await api.again("ada")
    await account.without_session()
    assert (await account.call("PUT", "/users/me", json={"email": "x@example.com"})).status_code == 200


async def test_changes_of_the_address_are_limited_like_sign_ins(
    identity_settings: Callable[..., Settings],
) -> None:
    async with start_api(identity_settings(rate_limit={"enabled": True, "auth": "10/day"})) as api:
        response = await (await api.account("ada")).call("PUT", "/users/me", json={})
        assert response.headers["ratelimit-policy"] == '"auth";q=10;w=86400'


async def test_of_two_administrators_who_demote_each_other_at_once_one_remains(api: Api) -> None:
    pair = [await api.account(name, role="admin") for name in ("anna", "bert")]
    ids = [(await one.call("GET", "/users/me")).json()["id"] for one in pair]
    changes = (
        one.call("PATCH", f"/admin/users/{other}", json={"role": "user"})
        for one, other in zip(pair, reversed(ids), strict=True)
    )
    assert sorted(response.status_code for response in await asyncio.gather(*changes)) == [200, 403]
    assert len(await api.statements("SELECT id FROM users WHERE role = 'admin'")) == 1


async def test_changed_password_ends_other_sign_ins_and_keeps_this_one(api: Api) -> None:
    account = await api.account("ada")
    other = await api.again("ada")
    body = {"current_password": PASSWORD, "new_password": "another long password"}
    assert (await account.call("POST", "/users/me/password", json=body)).status_code == 200
    assert (await account.call("GET", "/users/me")).status_code == 200
    assert (await other.call("GET", "/users/me")).status_code == 401
    assert (await other.refresh()).status_code == 401
    assert (await api.sign_in("ada")).status_code == 401
    assert (await api.sign_in("ada", "another long password")).status_code == 200


@pytest.mark.parametrize("names", [("user:1",), [f"name{number}" for number in range(3000)]])
async def test_nobody_who_guesses_elsewhere_keeps_a_user_from_changing_the_password(
    api: Api, names: Sequence[str]
) -> None:
    account = await api.account("ada")

    async def never() -> bool:
        return False

    refused = 0
    for number in range(3000):
        try:
            await api.identity.throttle.admit(
                names[number % len(names)], f"10.0.{number // 250}.{number % 250}", is_known_address=never
            )
        except RateLimitExceededException:
            refused += 1
    assert refused > 0, "the guesser has used up what can be used up"
    body = {"current_password": PASSWORD, "new_password": "another long password"}
    answer = await account.call("POST", "/users/me/password", json=body)
    assert answer.status_code == 200, answer.text


async def test_password_is_changed_by_its_holder_alone_and_guessing_it_is_slowed_down(api: Api) -> None:
    account = await api.account("ada")
    statuses = []
    for _ in range(12):
        body = {"current_password": "wrong password 1", "new_password": "another long password"}
        statuses.append((await account.call("POST", "/users/me/password", json=body)).status_code)
    assert statuses[:10] == [401] * 10
    assert statuses[10:] == [429, 429]
    body = {"current_password": PASSWORD, "new_password": "Password1"}
    assert (await account.call("POST", "/users/me/password", json=body)).status_code == 422


def test_guides_calls_work_on_an_application_that_was_never_started() -> None:
    """A new event loop for each request, no lifespan: what the guide's tests do."""
    client = TestClient(create_app())
    user = {
        "username": "integrationuser",
        "email": "integration@example.com",
        "password": "integrationpass123",
    }
    assert client.post("/auth/register", json=user).status_code == 200
    signed_in = client.post("/auth/login", data={"username": user["username"], "password": user["password"]})
    assert signed_in.status_code == 200
    headers = {"Authorization": f"Bearer {signed_in.json()['data']['access_token']}"}
    assert signed_in.json()["access_token"] == signed_in.json()["data"]["access_token"]
    assert signed_in.json()["token_type"] == "bearer"
    for _ in range(3):
        assert client.get("/users/me", headers=headers).status_code == 200
    updated = client.put("/users/me", json={"email": "updated@example.com"}, headers=headers)
    assert updated.status_code == 200
    refreshed = client.post("/auth/refresh", json={"refresh_token": signed_in.json()["refresh_token"]})
    assert refreshed.status_code == 200
    assert client.post("/auth/logout", headers=headers).status_code == 200
    assert client.get("/users/me", headers=headers).status_code == 401


async def test_closed_registration_is_a_403(identity_settings: Any) -> None:
    async with start_api(identity_settings(security={"registration_enabled": False})) as api:
        assert (await api.register("ada")).status_code == 403
