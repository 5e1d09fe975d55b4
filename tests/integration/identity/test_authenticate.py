"""The hot path: a warm request asks nothing of any store, and what the middleware is told before it routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from scalable_fastapi_system.identity.api_key_format import new_key
from scalable_fastapi_system.identity.authenticate import Authenticator
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.infra.database.observe import StatementCount, counted
from scalable_fastapi_system.kit.errors import AuthenticationException

from tests.integration.identity.conftest import Account, Api, start_api
from tests.support.databases import DisposableDatabase

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")


class Monotonic:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """An authenticator on the API's database, with a clock in hand and its statements counted."""

    def __init__(self, api: Api, *, capacity: int = 100) -> None:
        self.clock = Monotonic()
        self.delay = api.identity.settings.security.revocation_delay_seconds
        self.authenticator = Authenticator(
            api.identity.security,
            api.database,
            api.identity.key_hasher,
            monotonic=self.clock,
            capacity=capacity,
        )

    def identify(self, authorization: bytes | None, api_key: bytes | None = None) -> dict[str, Any]:
        scope: dict[str, Any] = {"state": {}}
        self.authenticator.identify(scope, authorization, api_key)
        state: dict[str, Any] = scope["state"]
        return state

    async def authenticate(self, header: bytes) -> tuple[Principal, int]:
        """The principal, and how many statements it took."""
        count = StatementCount()
        token = counted.set(count)
        try:
            principal = await self.authenticator.authenticate(header, None)
        finally:
            counted.reset(token)
        return principal, count.total


def bearer(account: Account) -> bytes:
    return account.headers["Authorization"].encode()


async def test_warm_request_asks_nothing_of_the_database(api: Api) -> None:
    account = await api.account()
    await account.call("GET", "/users/me")
    count = StatementCount()
    token = counted.set(count)
    for _ in range(20):
        assert (await account.call("GET", "/users/me")).status_code == 200
    counted.reset(token)
    assert count.statements == []


async def test_first_request_of_a_token_takes_one_query_and_the_next_none(api: Api) -> None:
    account = await api.account()
    watch = Watch(api)
    _, first = await watch.authenticate(bearer(account))
    principal, second = await watch.authenticate(bearer(account))
    assert (first, second) == (1, 0)
    assert principal.username == "ada"


async def test_middleware_learns_the_callers_key_before_any_query_and_the_caller_after_it(api: Api) -> None:
    account = await api.account()
    watch = Watch(api)
    user_id = api.identity.security.verify_token(account.tokens["access_token"])["user_id"]
    assert watch.identify(bearer(account)) == {"rate_key": f"user:{user_id}"}
    principal, _ = await watch.authenticate(bearer(account))
    assert watch.identify(bearer(account)) == {"rate_key": f"user:{user_id}", "principal": principal}


@pytest.mark.databases("sqlite")  # it is not asked
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Bearer a.b.c",
        b"Basic YTpi",
        b"Bearer \xff",
        b"Bearer sfk_x",
        b"\x00",
    ],
)
async def test_middleware_learns_nothing_from_what_is_no_credential_and_never_fails(
    api: Api, authorization: bytes | None
) -> None:
    watch = Watch(api)
    assert watch.identify(authorization) == {}
    assert watch.identify(None, authorization) == {}
    with pytest.raises(AuthenticationException):
        await watch.authenticator.authenticate(authorization, None)


async def test_standing_is_read_again_before_the_delay_is_over_by_one_request_alone(api: Api) -> None:
    account = await api.account()
    watch = Watch(api)
    await watch.authenticate(bearer(account))
    watch.clock.now += watch.delay * 0.5
    assert "principal" in watch.identify(bearer(account))
    watch.clock.now += watch.delay * 0.2
    assert "principal" not in watch.identify(bearer(account)), "due: one request goes and asks"
    counts = await asyncio.gather(*(watch.authenticate(bearer(account)) for _ in range(10)))
    assert sorted(count for _, count in counts) == [0] * 9 + [1]
    assert "principal" in watch.identify(bearer(account))


async def test_nobody_is_let_in_on_memory_alone_when_the_delay_is_over(api: Api) -> None:
    account = await api.account()
    watch = Watch(api)
    await watch.authenticate(bearer(account))
    await account.call("POST", "/auth/logout")
    watch.clock.now += watch.delay
    assert "principal" not in watch.identify(bearer(account))
    with pytest.raises(AuthenticationException):
        await watch.authenticate(bearer(account))


async def test_refused_token_is_not_looked_up_at_every_request(api: Api) -> None:
    account = await api.account()
    await account.call("POST", "/auth/logout")
    watch = Watch(api)
    counts = []
    for _ in range(5):
        count = StatementCount()
        token = counted.set(count)
        with pytest.raises(AuthenticationException):
            await watch.authenticator.authenticate(bearer(account), None)
        counted.reset(token)
        counts.append(count.total)
    assert counts == [1, 0, 0, 0, 0]


async def test_credential_that_was_refused_is_counted_by_its_address_and_not_as_its_former_owner(
    identity_settings: Callable[..., Any],
) -> None:
    limits = {"enabled": True, "anonymous": "50/day", "user": "60/day", "api_key": "70/day"}
    async with start_api(identity_settings(rate_limit=limits)) as api:
        account = await api.account()
        made = (await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})).json()["data"]
        await account.call("GET", "/users/me")
        for headers, end in (
            ({"X-API-Key": made["key"]}, ("DELETE", f"/api-keys/{made['id']}")),
            (account.headers, ("POST", "/auth/logout")),
        ):
            await api.client.get("/users/me", headers=headers)  # an unknown key has no name yet
            good = await api.client.get("/users/me", headers=headers)
            assert good.status_code == 200
            assert '"anonymous"' not in good.headers["ratelimit-policy"]
            assert (await account.call(*end)).status_code == 200
            assert (await api.client.get("/users/me", headers=headers)).status_code == 401
            for path in ("/users/me", "/"):
                policy = (await api.client.get(path, headers=headers)).headers["ratelimit-policy"]
                assert policy.startswith('"anonymous"'), (path, policy)


async def test_change_that_comes_while_the_standing_is_read_is_not_forgotten(api: Api) -> None:
    account = await api.account()
    watch = Watch(api)
    principal, _ = await watch.authenticate(bearer(account))
    watch.clock.now += watch.delay
    reading = asyncio.ensure_future(watch.authenticate(bearer(account)))
    await asyncio.sleep(0)
    watch.authenticator.forget_user(principal.id)
    await reading
    _, statements = await watch.authenticate(bearer(account))
    assert statements == 1, "what was read may be from before the change"


async def test_token_expires_while_it_is_remembered(api: Api) -> None:
    account = await api.account()
    watch = Watch(api)
    await watch.authenticate(bearer(account))
    watch.clock.now += 31 * 60
    assert watch.identify(bearer(account)) == {}
    with pytest.raises(AuthenticationException, match="expired"):
        await watch.authenticate(bearer(account))


async def test_memory_is_bounded_and_forgets_what_was_used_longest_ago(api: Api) -> None:
    accounts = [await api.account()] + [await api.again("ada") for _ in range(5)]
    watch = Watch(api, capacity=3)
    for account in accounts:
        await watch.authenticate(bearer(account))
    assert len(watch.authenticator._known) == 3
    assert sum(len(raws) for raws in watch.authenticator._by_user.values()) == 3
    statements = [(await watch.authenticate(bearer(account)))[1] for account in reversed(accounts[3:])]
    assert statements == [0, 0, 0]


async def test_what_has_the_form_of_a_key_is_told_until_it_is_known(api: Api) -> None:
    account = await api.account("ada")
    made = await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})
    key = made.json()["data"]["key"].encode()
    watch = Watch(api)
    for sent in ((None, key), (b"Bearer " + key, None), (b"bearer  " + key, None)):
        assert watch.identify(*sent) == {"may_be_key": True}
    assert watch.identify(None, key[:-1]) == {}
    await watch.authenticate(b"Bearer " + key)
    assert "may_be_key" not in watch.identify(b"Bearer " + key)
    with pytest.raises(AuthenticationException):
        await watch.authenticator.authenticate(None, new_key().encode())


async def test_a_key_that_many_requests_bring_for_the_first_time_is_noted_once(api: Api) -> None:
    account = await api.account("ada")
    made = await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})
    header = b"Bearer " + made.json()["data"]["key"].encode()
    watch = Watch(api)
    found = await asyncio.gather(*(watch.authenticate(header) for _ in range(8)))
    assert sum(statements for _, statements in found) < 2 * 8
    keys = (await account.call("GET", "/api-keys")).json()["data"]
    assert keys[0]["last_used_at"] is not None


@pytest.mark.parametrize("is_key", [False, True])
async def test_credential_is_remembered_once_however_it_is_spelled(api: Api, is_key: bool) -> None:
    account, other = await api.account("ada"), await api.account("bob")
    credential = account.tokens["access_token"]
    if is_key:
        made = await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})
        credential = made.json()["data"]["key"]
    watch = Watch(api, capacity=10)
    await watch.authenticate(bearer(other))
    spellings = [f"Bearer {' ' * number}{credential}  ".encode() for number in (0, 1, 7, 60_000)]
    spellings += [f"{scheme} {credential}".encode() for scheme in ("bearer", "BEARER")]
    for spelling in spellings:
        principal, _ = await watch.authenticate(spelling)
        assert watch.identify(spelling)["principal"] is principal
    assert len(watch.authenticator._known) == 2
    assert max(map(len, watch.authenticator._known)) < 1000
    assert (await watch.authenticate(spellings[-1]))[1] == 0
    assert (await watch.authenticate(bearer(other)))[1] == 0, "nobody was pushed out"


async def test_token_made_by_hand_as_in_the_guide_is_its_users(api: Api) -> None:
    account = await api.account()
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    manager = api.identity.security
    for data in ({"sub": "ada", "user_id": user_id}, {"sub": "ada"}):
        account.tokens["access_token"] = manager.create_access_token(data)
        assert (await account.call("GET", "/users/me")).json()["username"] == "ada"
    for data in (
        {"sub": "nobody"},
        {"sub": "ada", "user_id": 999},
        {"sub": "ada", "user_id": "1"},
        {"sub": "a\x00"},
    ):
        account.tokens["access_token"] = manager.create_access_token(data)
        assert (await account.call("GET", "/users/me")).status_code == 401
    account.tokens["access_token"] = manager.create_access_token({"sub": "ada", "scope": "profile:read"})
    assert (await account.call("GET", "/users/me")).status_code == 200
    assert (await account.call("PUT", "/users/me", json={})).status_code == 403


async def test_session_of_another_user_does_not_carry_a_token(api: Api) -> None:
    account, other = await api.account("ada"), await api.account("bob")
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    for session_id in (other.tokens["session_id"], "nonsense", "00000000-0000-0000-0000-000000000000"):
        account.tokens["access_token"] = api.identity.security.create_access_token(
            {"sub": "ada", "user_id": user_id, "sid": session_id}
        )
        assert (await account.call("GET", "/users/me")).status_code == 401


async def test_warm_identification_costs_well_under_ten_microseconds(api: Api) -> None:
    account = await api.account()
    await account.call("GET", "/users/me")
    header, scope = bearer(account), {"state": {}}
    identify = api.identity.authenticator.identify
    best = min(_seconds_of(lambda: identify(scope, header, None)) for _ in range(5))
    print(f"identify: {best * 1e6:.2f} µs")
    assert best < 10e-6
    assert scope["state"]["principal"].username == "ada"


def _seconds_of(call: Callable[[], None], *, times: int = 5000) -> float:
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times


async def test_database_that_is_away_is_a_503_and_warm_callers_go_on(
    disposable_database: DisposableDatabase, make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(
        database=disposable_database.section,
        security={"revocation_delay_seconds": 60},
        rate_limit={"enabled": False},
    )
    async with start_api(settings) as api:
        account, other = await api.account("ada"), await api.account("bob")
        await account.call("GET", "/users/me")
        disposable_database.stop()
        assert (await account.call("GET", "/users/me")).status_code == 200
        cold = await other.call("GET", "/users/me")
        assert cold.status_code == 503
        assert cold.headers["retry-after"]
