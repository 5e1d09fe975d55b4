"""Rows 12 to 14 over HTTP: what a stranger learns, what a guesser meets, and what becomes of old hashes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import bcrypt
import httpx
import pytest
from scalable_fastapi_system.identity import throttle
from scalable_fastapi_system.identity.repository import users
from scalable_fastapi_system.identity.service import recovery
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from sqlalchemy import text

from hack.dev.redis_server import Redis
from tests.integration.identity.conftest import PASSWORD, Api, start_api
from tests.support.databases import DisposableDatabase

pytestmark = pytest.mark.databases("sqlite", "postgres")

TRIES = 200


@pytest.mark.parametrize("send", ["form", "json"])
async def test_sign_in_takes_a_form_and_json(api: Api, send: str) -> None:
    await api.register("ada")
    body = {"username": "ada", "password": PASSWORD}
    options: dict[str, Any] = (
        {"data": {**body, "grant_type": "password"}} if send == "form" else {"json": body}
    )
    response = await api.client.post("/auth/login", **options)
    assert response.status_code == 200
    assert response.json()["token_type"] == "bearer"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"username=ada&password=x", 415),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({"content-type": "application/json"}, b"{", 422),
        ({"content-type": "application/json"}, b"[]", 422),
        ({"content-type": "application/json"}, b'{"username": "ada"}', 422),
        ({"content-type": "application/json"}, b'{"username": "ada", "password": "x", "more": 1}', 422),
        ({"content-type": "application/json"}, b'{"username": "a\\u0000", "password": "x"}', 422),
        ({"content-type": "application/json"}, b'{"username": "\\ud800", "password": "x"}', 422),
        ({"content-type": "application/json"}, b'{"username": "ada", "password": "\\ud800"}', 422),
        ({"content-type": "application/x-www-form-urlencoded"}, b"username=ada", 422),
        ({"content-type": "application/x-www-form-urlencoded"}, b"username=%00&password=x", 422),
        ({"content-type": "application/x-www-form-urlencoded"}, b"a=1&" * 50, 400),
        ({}, b"username=ada&password=x", 415),
    ],
)
async def test_what_is_no_sign_in_is_refused_as_such(
    api: Api, headers: dict[str, str], content: bytes, status: int
) -> None:
    response = await api.client.post("/auth/login", headers=headers, content=content)
    assert response.status_code == status
    assert response.json()["success"] is False


async def test_wrong_name_wrong_password_and_disabled_user_get_one_answer(api: Api) -> None:
    admin = await api.account("root_user", role="admin")
    await api.register("ada")
    disabled = (await api.register("bob")).json()["data"]["id"]
    await admin.call("PATCH", f"/admin/users/{disabled}", json={"is_active": False})
    answers = [
        await api.sign_in("ada", "wrong password"),
        await api.sign_in("nobody", "wrong password"),
        await api.sign_in("nobody@example.com", "wrong password"),
        await api.sign_in("bob", PASSWORD),
    ]

    def visible(response: Any) -> Any:
        changing = {"request_id"}
        headers = {name for name in response.headers if name != "content-length"}
        return response.status_code, headers, {k: v for k, v in response.json().items() if k not in changing}

    assert [visible(answer) for answer in answers] == [visible(answers[0])] * 4
    assert answers[0].json()["message"] == "Incorrect username or password"


@pytest.mark.databases("sqlite", "postgres", "mariadb")
async def test_name_with_blanks_behind_it_is_nobodys(api: Api) -> None:
    """The throttle counts each spelling by itself: as many as there are would be as many budgets."""
    await api.register("ada")
    for identifier in ("ada ", "ada   ", "ada@example.com ", " ada"):
        assert (await api.sign_in(identifier)).status_code == 401
    for identifier in ("ada", "ADA", "Ada@Example.com"):
        assert (await api.sign_in(identifier)).status_code == 200


@pytest.mark.slow
@pytest.mark.databases("postgres")
async def test_time_tells_nobody_whether_there_is_such_a_user(
    database_section: dict[str, Any], make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(
        database=database_section,
        security={"bcrypt_rounds": 8, "login_attempts_per_minute": 100_000},
        rate_limit={"enabled": False},
        logging={"access_log": False},
    )
    async with start_api(settings) as api:
        await api.register("known_user")

        async def is_admitted(_address: str) -> bool:
            return True  # else all but the first three requests would be measured without their work

        monkeypatch.setattr(api.identity.throttle, "admit_message", is_admitted)

        async def seconds(call: Callable[[], Any]) -> float:
            started = time.perf_counter()
            await call()
            return time.perf_counter() - started

        pairs = {
            "sign-in": (
                lambda: api.sign_in("known_user", "wrong password"),
                lambda: api.sign_in("nobody_here", "wrong password"),
            ),
            "reset": (
                lambda: api.client.post("/auth/password/forgot", json={"email": "known_user@example.com"}),
                lambda: api.client.post("/auth/password/forgot", json={"email": "nobody_here@example.com"}),
            ),
            "register": (
                lambda: api.client.post(
                    "/auth/register",
                    json={"username": "known_user", "email": "new@example.com", "password": PASSWORD},
                ),
                lambda: api.client.post(
                    "/auth/register",
                    json={"username": "other", "email": "known_user@example.com", "password": PASSWORD},
                ),
            ),
        }

        async def difference(known: Callable[[], Any], unknown: Callable[[], Any]) -> float:
            times: list[tuple[float, float]] = []
            for number in range(TRIES):  # by turns, and each first as often as the other
                if number % 2:
                    times.append((await seconds(known), await seconds(unknown)))
                else:
                    later = await seconds(unknown)
                    times.append((await seconds(known), later))
            known_median, unknown_median = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{known_median * 1000:.2f} ms and {unknown_median * 1000:.2f} ms")
            return abs(known_median - unknown_median) / known_median

        for name, (known, unknown) in pairs.items():
            # What tells shows every time; what a busy machine adds does not.
            rounds = [await difference(known, unknown)]
            while rounds[-1] >= 0.10 and len(rounds) < 3:
                rounds.append(await difference(known, unknown))
            print(name, [f"{found:.1%}" for found in rounds])
            assert rounds[-1] < 0.10, name


def stop_attempts_clock(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no further attempt is given: a slow machine would get some between two requests."""
    store, now = api.identity.throttle._store, time.monotonic()
    local = store._local if isinstance(store, throttle.SharedAttempts) else store
    monkeypatch.setattr(local, "_monotonic", lambda: now)


async def test_guessing_is_slowed_down_and_the_right_password_still_works_from_a_known_browser(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_attempts_clock(api, monkeypatch)
    await api.register("ada")
    known = (await api.sign_in("ada")).cookies
    api.client.cookies.clear()
    statuses = [(await api.sign_in("ada", f"wrong {number}")).status_code for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    refused = await api.sign_in("ada")
    assert refused.status_code == 429, "the right password does not help a guesser"
    assert int(refused.headers["retry-after"]) >= 1
    nobody = [(await api.sign_in("nobody", f"wrong {number}")).status_code for number in range(12)]
    assert nobody == statuses, "a name that does not exist is counted alike"
    api.client.cookies.update(known)
    assert (await api.sign_in("ada")).status_code == 200


async def test_cookie_of_who_had_the_address_before_lets_nobody_guess(
    identity_settings: Callable[..., Any],
) -> None:
    async with start_api(identity_settings(security={"login_attempts_per_minute": 2})) as api:
        mallory = await api.account("mallory")
        assert (
            await mallory.call("PUT", "/users/me", json={"email": "grace@example.com"})
        ).status_code == 200
        harvest = [(await api.sign_in("mallory")).cookies["known_device"] for _ in range(10)]
        assert (await mallory.call("PUT", "/users/me", json={"email": "own@example.com"})).status_code == 200
        assert (await api.register("grace")).status_code == 200
        statuses = []
        for cookie in harvest:
            api.client.cookies.clear()
            api.client.cookies.set("known_device", cookie)
            statuses.append((await api.sign_in("grace@example.com", "wrong password")).status_code)
        assert statuses == [401] * 2 + [429] * 8
        assert (await api.sign_in("own@example.com")).status_code == 200


@pytest.mark.databases("sqlite", "postgres", "mariadb")
async def test_user_gets_in_from_a_known_address_while_many_addresses_guess(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.register("ada")

    async def status_from(address: str, password: str, identifier: str = "ada") -> int:
        transport = httpx.ASGITransport(api.app, client=(address, 1000))
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as elsewhere:
            body = {"username": identifier, "password": password}
            return (await elsewhere.post("/auth/login", data=body)).status_code

    assert await status_from("198.51.100.7", PASSWORD) == 200
    assert await status_from("2001:db8:0:1::1", PASSWORD) == 200
    addresses = (f"192.0.2.{number}" for number in range(250))
    guesses = [await status_from(next(addresses), "wrong password") for _ in range(60)]
    assert guesses == [401] * 60
    stop_attempts_clock(api, monkeypatch)
    while await status_from(next(addresses), "wrong password") != 429:
        pass
    assert await status_from("203.0.113.1", PASSWORD) == 429, "from a new address even the right one"
    assert await status_from("198.51.100.7", PASSWORD) == 200, "from the known one without any cookie"
    assert await status_from("198.51.100.7", "wrong password") == 401, "and a wrong one is wrong there"
    assert await status_from("198.51.100.7", PASSWORD, "ada@example.com") == 200
    assert await status_from("2001:db8:0:1:aaaa::2", PASSWORD) == 200, "an IPv6 /64 is one address"
    assert await status_from("2001:db8:0:2::1", PASSWORD) == 429


@pytest.mark.parametrize("is_redis_away", [False, True])
async def test_replicas_count_together_with_redis_and_alone_without(
    database_section: dict[str, Any],
    disposable_redis: Redis,
    make_settings: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    is_redis_away: bool,
) -> None:
    monkeypatch.setattr(throttle, "_CALL_SECONDS", 10.0)  # a pause of the machine is no outage of Redis here
    settings = make_settings(
        database=database_section,
        redis={"redis_url": disposable_redis.url(), "connect_timeout_seconds": 10.0},
        rate_limit={"enabled": False},
    )
    async with start_api(settings) as one, start_api(settings) as two:
        await one.register("ada")
        if is_redis_away:
            disposable_redis.stop()
            for api in (one, two):
                stop_attempts_clock(api, monkeypatch)
        statuses = [
            (await api.sign_in("ada", "wrong password")).status_code for _ in range(12) for api in (one, two)
        ]
        if is_redis_away:
            assert statuses.count(401) == 20
        else:  # the clock is Redis's, and gives one more each six seconds
            assert 10 <= statuses.count(401) < 20
        assert set(statuses) == {401, 429}, "no 5xx"
        if not is_redis_away:
            keys = (await one.identity.throttle._store._redis.client()).keys("*")  # type: ignore[attr-defined]
            assert not [key for key in await keys if b"ada" in key], "no names in another store"


async def test_success_gives_the_attempts_back_in_redis(
    database_section: dict[str, Any], redis_url: str, make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(
        database=database_section,
        redis={"redis_url": redis_url},
        rate_limit={"enabled": False},
    )
    async with start_api(settings) as api:
        await api.register("ada")
        for _ in range(15):
            api.client.cookies.clear()
            assert (await api.sign_in("ada")).status_code == 200
        redis = await api.identity.throttle._store._redis.client()  # type: ignore[attr-defined]
        left = [await redis.pttl(key) for key in await redis.keys("*attempts*")]
        assert max(left, default=0) < 1000


@pytest.mark.databases("postgres")
async def test_attempts_through_an_outage_of_the_database_are_not_counted(
    disposable_database: DisposableDatabase, make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(database=disposable_database.section, rate_limit={"enabled": False})
    async with start_api(settings) as api:
        await api.register("ada")
        disposable_database.stop()
        assert [(await api.sign_in("ada")).status_code for _ in range(25)] == [503] * 25
        disposable_database.start()
        async with asyncio.timeout(30):
            while (answer := await api.sign_in("ada")).status_code == 503:
                await asyncio.sleep(0.1)
        assert answer.status_code == 200


@pytest.mark.databases("sqlite")  # it is not asked
async def test_attempts_through_a_full_queue_of_hashes_are_not_counted(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.register("ada")

    async def refuse(*_arguments: str) -> None:
        raise ServiceUnavailableException("Too many passwords are being checked at the moment")

    with monkeypatch.context() as full:
        full.setattr(api.identity.security.passwords, "verify_in_thread", refuse)
        assert [(await api.sign_in("ada")).status_code for _ in range(25)] == [503] * 25
    assert (await api.sign_in("ada")).status_code == 200


async def test_fifty_guesses_at_once_get_no_more_than_the_budget(api: Api) -> None:
    await api.register("ada")
    responses = await asyncio.gather(*(api.sign_in("ada", f"wrong {number}") for number in range(50)))
    statuses = [response.status_code for response in responses]
    assert statuses.count(401) <= 10
    assert set(statuses) <= {401, 429, 503}


async def test_hash_from_elsewhere_is_replaced_when_its_user_signs_in(api: Api) -> None:
    await api.register("ada")
    plain = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    async with api.database.transaction() as session:
        await session.execute(text("UPDATE users SET hashed_password = :plain"), {"plain": plain})
    assert (await api.sign_in("ada", "wrong password")).status_code == 401
    assert [row["hashed_password"] for row in await api.statements("SELECT hashed_password FROM users")] == [
        plain
    ]
    assert (await api.sign_in("ada")).status_code == 200
    (stored,) = await api.statements("SELECT hashed_password FROM users")
    assert stored["hashed_password"].startswith("$bcrypt-sha256$")
    assert (await api.sign_in("ada")).status_code == 200


@pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")
@pytest.mark.parametrize("deed", ["password_changed", "password_reset", "disabled"])
async def test_sign_in_that_a_change_overtakes_while_it_is_hashed_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    admin, account = await api.account("root_user", role="admin"), await api.account("ada")
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    async with api.database.transaction() as session:
        user = await users.get(session, user_id)
    assert user is not None
    token = recovery.make_token(api.identity.settings.security, user)
    hasher = api.identity.security.passwords
    verify, is_verified, is_changed = hasher.verify_in_thread, asyncio.Event(), asyncio.Event()

    async def slow(password: str, hashed: str) -> bool:
        found = await verify(password, hashed)
        is_verified.set()
        await is_changed.wait()
        return found

    monkeypatch.setattr(hasher, "verify_in_thread", slow)
    signing_in = asyncio.ensure_future(api.sign_in("ada"))
    await is_verified.wait()
    monkeypatch.setattr(hasher, "verify_in_thread", verify)
    new = "a password that is new"
    if deed == "password_changed":
        body = {"current_password": PASSWORD, "new_password": new}
        response = await account.call("POST", "/users/me/password", json=body)
    elif deed == "password_reset":
        body = {"token": token, "new_password": new}
        response = await api.client.post("/auth/password/reset", json=body)
    else:
        response = await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": False})
    assert response.status_code == 200, response.text
    is_changed.set()
    refused = await signing_in
    assert refused.status_code == 401
    assert refused.json()["message"] == "Incorrect username or password"


@pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")
async def test_sign_ins_at_once_that_all_find_an_old_hash_succeed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.register("ada")
    plain = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    async with api.database.transaction() as session:
        await session.execute(text("UPDATE users SET hashed_password = :plain"), {"plain": plain})
    hasher = api.identity.security.passwords
    hash_in_thread, together = hasher.hash_in_thread, asyncio.Barrier(4)

    async def all_at_once(password: str) -> str:
        await together.wait()
        return await hash_in_thread(password)

    monkeypatch.setattr(hasher, "hash_in_thread", all_at_once)
    responses = await asyncio.gather(*(api.sign_in("ada") for _ in range(4)))
    assert [response.status_code for response in responses] == [200] * 4
    (stored,) = await api.statements("SELECT hashed_password FROM users")
    assert stored["hashed_password"].startswith("$bcrypt-sha256$")


async def test_change_of_scheme_takes_effect_at_the_next_sign_in(
    identity_settings: Callable[..., Any],
) -> None:
    for scheme, beginning in (
        ("bcrypt", "$bcrypt-sha256$"),
        ("argon2id", "$argon2id$"),
        ("bcrypt", "$bcrypt"),
    ):
        settings = identity_settings(security={"password_hash": scheme})
        async with start_api(settings) as api:
            await api.register("ada")
            assert (await api.sign_in("ada")).status_code == 200
            (stored,) = await api.statements("SELECT hashed_password FROM users")
            assert stored["hashed_password"].startswith(beginning)


async def test_no_connection_is_held_while_a_password_is_hashed(
    database_section: dict[str, Any], make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(
        database={
            **database_section,
            "pool_size": 1,
            "max_overflow": 0,
            "pool_timeout_seconds": 0.3,
        },
        security={"bcrypt_rounds": 12, "password_hash_threads": 1, "login_attempts_per_minute": 1000},
        rate_limit={"enabled": False},
    )
    async with start_api(settings) as api:
        await api.register("ada")
        signing_in = [asyncio.ensure_future(api.sign_in("ada", "wrong password")) for _ in range(4)]
        await asyncio.sleep(0.05)
        for _ in range(5):
            assert len(await api.statements("SELECT 1 AS one")) == 1
            await asyncio.sleep(0.05)
        assert [response.status_code for response in await asyncio.gather(*signing_in)] == [401] * 4
