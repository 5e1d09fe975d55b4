"""Row 19: who is disabled is refused on every replica, at once with Redis and within the delay without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from scalable_fastapi_system.identity import changes, throttle

from hack.dev.redis_server import Redis
from tests.integration.identity.conftest import Account, Api, start_api

pytestmark = pytest.mark.databases("sqlite", "postgres")

DELAY_SECONDS = 1.5


async def replicas(stack: AsyncExitStack, settings: Any, *, count: int) -> list[Api]:
    return [await stack.enter_async_context(start_api(settings)) for _ in range(count)]


def seen_by(api: Api, account: Account) -> Account:
    """The same user at another replica."""
    return Account(api, account.username, account.tokens)


async def until_refused(account: Account, *, seconds: float) -> None:
    """Fails where a request was let in that was asked later than that: when its answer is seen is the machine's affair."""
    started = time.monotonic()
    while True:
        asked = time.monotonic() - started
        if (await account.call("GET", "/users/me")).status_code != 200:
            return
        assert asked <= seconds, "still let in"
        await asyncio.sleep(0.02)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of the machine is no outage of Redis: one that is stopped refuses at once."""
    monkeypatch.setattr(changes, "_PUBLISH_SECONDS", 10.0)
    monkeypatch.setattr(throttle, "_CALL_SECONDS", 10.0)


async def disable(api: Api, admin: Account, user_id: int) -> None:
    response = await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": False})
    assert response.status_code == 200, response.text


async def test_disabled_user_is_refused_by_other_replicas_within_the_delay_without_redis(
    stack: AsyncExitStack, database_section: dict[str, Any], make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(database=database_section, security={"revocation_delay_seconds": DELAY_SECONDS})
    one, two = await replicas(stack, settings, count=2)
    admin, victim = await one.account("root_user", role="admin"), await one.account("ada")
    elsewhere = seen_by(two, victim)
    user_id = (await elsewhere.call("GET", "/users/me")).json()["id"]
    await disable(one, admin, user_id)
    assert (await victim.call("GET", "/users/me")).status_code == 401, "at once where it was done"
    await until_refused(elsewhere, seconds=DELAY_SECONDS + 0.5)
    assert (await elsewhere.refresh()).status_code == 401
    assert (await two.sign_in("ada")).status_code == 401


@pytest.mark.usefixtures("patience")
async def test_disabled_user_is_refused_by_other_replicas_at_once_with_redis(
    stack: AsyncExitStack,
    database_section: dict[str, Any],
    redis_url: str,
    make_settings: Callable[..., Any],
) -> None:
    settings = make_settings(
        database=database_section,
        redis={"redis_url": redis_url, "command_timeout_seconds": 10.0, "connect_timeout_seconds": 10.0},
        security={"revocation_delay_seconds": 60},
    )
    one, two = await replicas(stack, settings, count=2)
    await listening(two)
    admin, victim = await one.account("root_user", role="admin"), await one.account("ada")
    elsewhere = seen_by(two, victim)
    user_id = (await elsewhere.call("GET", "/users/me")).json()["id"]
    await disable(one, admin, user_id)
    await until_refused(elsewhere, seconds=1)


@pytest.mark.usefixtures("patience")
async def test_delay_holds_when_redis_goes_away_and_the_feed_comes_back_with_it(
    stack: AsyncExitStack,
    database_section: dict[str, Any],
    disposable_redis: Redis,
    make_settings: Callable[..., Any],
) -> None:
    settings = make_settings(
        database=database_section,
        redis={
            "redis_url": disposable_redis.url(),
            "command_timeout_seconds": 10.0,
            "connect_timeout_seconds": 10.0,
            "retry_after_failure_seconds": 0.2,
        },
        security={"revocation_delay_seconds": DELAY_SECONDS},
    )
    one, two = await replicas(stack, settings, count=2)
    await listening(two)
    admin = await one.account("root_user", role="admin")
    ada, bob = await one.account("ada"), await one.account("bob")
    ada_there, bob_there = seen_by(two, ada), seen_by(two, bob)
    ada_id = (await ada_there.call("GET", "/users/me")).json()["id"]
    bob_id = (await bob_there.call("GET", "/users/me")).json()["id"]
    disposable_redis.stop()
    await disable(one, admin, ada_id)
    await until_refused(ada_there, seconds=DELAY_SECONDS + 0.5)
    disposable_redis.start()
    await listening(two)
    await listening(one)
    assert (await bob_there.call("GET", "/users/me")).status_code == 200
    await disable(one, admin, bob_id)
    await until_refused(bob_there, seconds=1)


async def test_delay_holds_when_redis_is_silent_and_no_answer_waits_for_it(
    stack: AsyncExitStack,
    database_section: dict[str, Any],
    disposable_redis: Redis,
    make_settings: Callable[..., Any],
) -> None:
    settings = make_settings(
        database=database_section,
        redis={
            "redis_url": disposable_redis.url(),
            "command_timeout_seconds": 30.0,
            "connect_timeout_seconds": 30.0,
            "retry_after_failure_seconds": 0.2,
        },
        security={"revocation_delay_seconds": DELAY_SECONDS},
    )
    one, two = await replicas(stack, settings, count=2)
    await listening(two)
    admin, ada = await one.account("root_user", role="admin"), await one.account("ada")
    ada_there = seen_by(two, ada)
    ada_id = (await ada_there.call("GET", "/users/me")).json()["id"]
    disposable_redis.child.freeze()
    try:
        started = time.monotonic()
        await disable(one, admin, ada_id)
        assert time.monotonic() - started < 10, "a fifth of a second for Redis, and the rest of the work"
        await until_refused(ada_there, seconds=DELAY_SECONDS + 0.5)
        async with asyncio.timeout(15):
            while two.identity.changes.is_listening:
                await asyncio.sleep(0.05)
    finally:
        disposable_redis.child.thaw()
    await listening(two)


async def test_change_is_made_to_what_is_stored_and_not_to_what_a_replica_remembers(
    stack: AsyncExitStack, database_section: dict[str, Any], make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(database=database_section, security={"revocation_delay_seconds": 60})
    one, two = await replicas(stack, settings, count=2)
    account = await one.account("ada")
    elsewhere = seen_by(two, account)
    assert (await elsewhere.call("GET", "/users/me")).json()["email"] == "ada@example.com"
    await account.call("PUT", "/users/me", json={"email": "new@example.com"})
    back = await elsewhere.call("PUT", "/users/me", json={"email": "ada@example.com"})
    assert back.json()["email"] == "ada@example.com"
    assert [row["email"] for row in await one.statements("SELECT email FROM users")] == ["ada@example.com"]


async def test_enabled_again_is_let_in_again(api: Api) -> None:
    admin, victim = await api.account("root_user", role="admin"), await api.account("ada")
    user_id = (await victim.call("GET", "/users/me")).json()["id"]
    await disable(api, admin, user_id)
    assert (await api.sign_in("ada")).status_code == 401
    response = await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": True})
    assert response.json()["data"]["is_active"] is True
    assert (await victim.call("GET", "/users/me")).status_code == 401, "the former sign-ins stay ended"
    assert (await (await api.again("ada")).call("GET", "/users/me")).status_code == 200


async def test_role_counts_at_once_and_is_taken_away_at_once(api: Api) -> None:
    admin, other = await api.account("root_user", role="admin"), await api.account("ada")
    user_id = (await other.call("GET", "/users/me")).json()["id"]
    assert (await other.call("GET", "/admin/users")).status_code == 403
    await admin.call("PATCH", f"/admin/users/{user_id}", json={"role": "admin"})
    assert (await other.call("GET", "/admin/users")).status_code == 200
    await admin.call("PATCH", f"/admin/users/{user_id}", json={"role": "user"})
    assert (await other.call("GET", "/admin/users")).status_code == 403


async def test_administrator_cannot_lock_themselves_out(api: Api) -> None:
    admin = await api.account("root_user", role="admin")
    user_id = (await admin.call("GET", "/users/me")).json()["id"]
    assert (
        await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": False})
    ).status_code == 409
    assert (await admin.call("PATCH", "/admin/users/999999", json={"role": "user"})).status_code == 404


async def listening(api: Api) -> None:
    async with asyncio.timeout(10):
        while not api.identity.changes.is_listening:
            await asyncio.sleep(0.02)
