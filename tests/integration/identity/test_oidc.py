"""Signing in through a real OpenID Connect provider in a process of its own, and every way in which it may be wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from scalable_fastapi_system.identity.repository import external as external_rows
from scalable_fastapi_system.identity.repository import users
from scalable_fastapi_system.identity.service import recovery

from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from tests.integration.identity.conftest import PASSWORD, Account, Api, start_api
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET

pytestmark = pytest.mark.databases("sqlite", "postgres")

PUBLIC_URL = "http://api.test"
CALLBACK = f"{PUBLIC_URL}/auth/oidc/corp/callback"
USER = {
    "sub": "subject-1",
    "email": "Grace@Example.com",
    "email_verified": True,
    "preferred_username": "grace.hopper",
}


@dataclass
class Provider:
    """The other process."""

    issuer: str

    def control(self, *faults: str, user: dict[str, Any] | None = None, **more: Any) -> None:
        body: dict[str, Any] = {"faults": faults, "user": user or USER, "redirect_uri": CALLBACK, **more}
        # httpx cannot write half a character, and JSON can.
        httpx.post(f"{self.issuer}/control", content=json.dumps(body)).raise_for_status()


@pytest.fixture(scope="module")
def provider_process() -> Iterator[Provider]:
    port = find_free()
    command = [sys.executable, "-m", "tests.support.oidc_provider", str(port)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Provider(f"http://127.0.0.1:{port}")
        process.terminate()


@pytest.fixture
def provider(provider_process: Provider) -> Provider:
    provider_process.control()
    return provider_process


def with_provider(
    identity_settings: Callable[..., Any], provider: Provider, *, public_url: str = PUBLIC_URL, **more: Any
) -> Any:
    corp = {"issuer": provider.issuer, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    return identity_settings(oidc={"providers": {"corp": corp}}, mail={"public_url": public_url}, **more)


@pytest.fixture
async def api(identity_settings: Callable[..., Any], provider: Provider) -> AsyncIterator[Api]:
    async with start_api(with_provider(identity_settings, provider)) as running:
        yield running


async def at_the_provider(url: str) -> str:
    """What a browser does at the provider: where it is sent back to."""
    async with httpx.AsyncClient() as browser:
        response = await browser.get(url)
    assert response.status_code == 302, response.text
    return response.headers["location"]


async def sign_in(api: Api) -> httpx.Response:
    begun = await api.client.get("/auth/oidc/corp/login")
    assert begun.status_code == 302, begun.text
    back = await at_the_provider(begun.headers["location"])
    return await api.client.get(back)


async def test_person_the_provider_vouches_for_gets_an_account_and_is_signed_in(api: Api) -> None:
    response = await sign_in(api)
    assert response.status_code == 200, response.text
    account = Account(api, "", response.json()["data"])
    me = (await account.call("GET", "/users/me")).json()
    assert me["username"] == "grace_hopper"
    assert me["email"] == "grace@example.com"
    (session,) = (await account.call("GET", "/auth/sessions")).json()["data"]
    assert session["method"] == "oidc"
    assert (await account.refresh()).status_code == 200


async def test_second_sign_in_is_the_same_account_whatever_the_address_is_by_then(
    api: Api, provider: Provider
) -> None:
    first = Account(api, "", (await sign_in(api)).json()["data"])
    provider.control(user={**USER, "email": "changed@example.com"})
    second = Account(api, "", (await sign_in(api)).json()["data"])
    assert (await first.call("GET", "/users/me")).json()["id"] == (
        await second.call("GET", "/users/me")
    ).json()["id"]


@pytest.mark.databases("sqlite", "postgres", "mariadb")
async def test_subject_with_a_blank_behind_it_is_another(api: Api, provider: Provider) -> None:
    first = Account(api, "", (await sign_in(api)).json()["data"])
    provider.control(user={**USER, "sub": "subject-1 ", "email": "other@example.com"})
    response = await sign_in(api)
    if response.status_code == 200:
        other = Account(api, "", response.json()["data"])
        me, them = [(await account.call("GET", "/users/me")).json() for account in (first, other)]
        assert me["id"] != them["id"]
    else:
        assert response.status_code == 409, "MySQL's index cannot hold both"


async def test_begin_asks_for_a_code_with_pkce_state_and_nonce(api: Api, provider: Provider) -> None:
    begun = await api.client.get("/auth/oidc/corp/login")
    query = parse_qs(urlsplit(begun.headers["location"]).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [CALLBACK]
    assert {"state", "nonce", "code_challenge"} <= query.keys()
    cookie = begun.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert begun.headers["cache-control"] == "no-store"


class StripsPath(httpx.AsyncBaseTransport):
    """A proxy at `/app` that takes it away."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        assert path.startswith("/app/")
        behind = request.url.copy_with(raw_path=path.removeprefix("/app").encode())
        return await self._inner.handle_async_request(
            httpx.Request(
                request.method,
                behind,
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        )


@pytest.mark.parametrize("strips", [True, False], ids=["the proxy strips", "root_path"])
async def test_service_below_a_path_gets_its_cookies_back(
    identity_settings: Callable[..., Any], provider: Provider, strips: bool
) -> None:
    public_url = "https://host.test/app"
    settings = with_provider(identity_settings, provider, public_url=public_url)
    provider.control(redirect_uri=f"{public_url}/auth/oidc/corp/callback")
    async with start_api(settings) as api:
        transport: httpx.AsyncBaseTransport = (
            StripsPath(httpx.ASGITransport(api.app))
            if strips
            else httpx.ASGITransport(api.app, root_path="/app")
        )
        async with httpx.AsyncClient(transport=transport, base_url=public_url) as browser:
            begun = await browser.get("/auth/oidc/corp/login")
            back = await at_the_provider(begun.headers["location"])
            finished = await browser.get(back)
            assert finished.status_code == 200, finished.text
            assert "oidc_state" not in browser.cookies, "it is deleted where it was set"
            await api.account("ada")
            form = {"username": "ada", "password": PASSWORD}
            assert (await browser.post("/auth/login", data=form)).status_code == 200
            again = await browser.post("/auth/login", data=form)
            assert "known_device" in again.request.headers["cookie"]


async def test_device_is_known_on_a_host_that_is_not_the_one_of_the_pages(
    identity_settings: Callable[..., Any],
) -> None:
    async with start_api(identity_settings(mail={"public_url": "https://pages.test/app"})) as api:
        await api.account("ada")
        assert "known_device" in (await api.sign_in("ada")).request.headers["cookie"]


async def test_callback_without_the_cookie_of_its_beginning_is_refused(api: Api) -> None:
    begun = await api.client.get("/auth/oidc/corp/login")
    back = await at_the_provider(begun.headers["location"])
    api.client.cookies.clear()
    assert (await api.client.get(back)).status_code == 401


async def test_callback_with_the_cookie_of_another_beginning_is_refused(api: Api) -> None:
    """An attacker's code in the victim's browser: the victim would be signed in as the attacker."""
    attackers = await api.client.get("/auth/oidc/corp/login")
    back = await at_the_provider(attackers.headers["location"])
    await api.client.get("/auth/oidc/corp/login")
    assert (await api.client.get(back)).status_code == 401


async def test_code_works_once(api: Api) -> None:
    begun = await api.client.get("/auth/oidc/corp/login")
    cookies = dict(api.client.cookies)
    back = await at_the_provider(begun.headers["location"])
    assert (await api.client.get(back)).status_code == 200
    api.client.cookies.update(cookies)
    assert (await api.client.get(back)).status_code == 401


async def test_code_without_its_verifier_is_worth_nothing(api: Api) -> None:
    """The provider refuses a stolen code in another browser's beginning: PKCE at work."""
    victim = await api.client.get("/auth/oidc/corp/login")
    stolen = parse_qs(urlsplit(await at_the_provider(victim.headers["location"])).query)["code"][0]
    own = await api.client.get("/auth/oidc/corp/login")
    state = parse_qs(urlsplit(own.headers["location"]).query)["state"][0]
    response = await api.client.get(CALLBACK, params={"code": stolen, "state": state})
    assert response.status_code == 401


@pytest.mark.parametrize(
    "fault",
    [
        "wrong_nonce",
        "wrong_issuer",
        "wrong_audience",
        "two_audiences",
        "wrong_party",
        "wrong_access_token_hash",
        "expired",
        "alg_none",
        "foreign_key",
        "no_id_token",
    ],
)
async def test_id_token_that_does_not_hold_is_refused(api: Api, provider: Provider, fault: str) -> None:
    provider.control(fault)
    response = await sign_in(api)
    assert response.status_code == 401
    assert await api.statements("SELECT id FROM users") == []


@pytest.mark.parametrize("fault", ["token_endpoint_broken", "token_endpoint_html", "token_endpoint_nested"])
async def test_provider_that_fails_is_a_503(api: Api, provider: Provider, fault: str) -> None:
    provider.control(fault)
    response = await sign_in(api)
    assert response.status_code == 503
    assert response.headers["retry-after"]


async def test_metadata_that_names_another_issuer_is_not_used(api: Api, provider: Provider) -> None:
    provider.control("metadata_of_another")
    assert (await api.client.get("/auth/oidc/corp/login")).status_code == 503
    provider.control()
    assert (await api.client.get("/auth/oidc/corp/login")).status_code == 302


@pytest.mark.parametrize("status", [302, 403, 404, 429, 500])
async def test_provider_whose_metadata_cannot_be_had_is_a_503(
    api: Api, provider: Provider, status: int
) -> None:
    provider.control(document_status=status)
    assert (await api.client.get("/auth/oidc/corp/login")).status_code == 503
    provider.control()
    assert (await api.client.get("/auth/oidc/corp/login")).status_code == 302


@pytest.mark.parametrize(
    "change",
    [
        {"authorization_endpoint": "https://["},
        {"token_endpoint": "https://[bad"},
        {"token_endpoint": "https://host.test:99999/token"},
        {"token_endpoint": "https://host.test/\n"},
        {"token_endpoint": 5},
        {"jwks_uri": "https://"},
        {"jwks_uri": "https://host.test/\ud800"},
        {"userinfo_endpoint": "ftp://host.test/"},
        {"token_endpoint_auth_methods_supported": 5},
        {"token_endpoint_auth_methods_supported": "client_secret_basic"},
    ],
    ids=ascii,
)
async def test_metadata_that_make_no_sense_are_a_503(
    api: Api, provider: Provider, change: dict[str, Any]
) -> None:
    provider.control(metadata=change)
    assert (await api.client.get("/auth/oidc/corp/login")).status_code == 503


async def test_metadata_may_leave_out_what_is_not_needed(api: Api, provider: Provider) -> None:
    provider.control(metadata={"userinfo_endpoint": None, "token_endpoint_auth_methods_supported": None})
    assert (await sign_in(api)).status_code == 200


async def test_answer_that_names_another_issuer_is_refused(api: Api) -> None:
    begun = await api.client.get("/auth/oidc/corp/login")
    back = await at_the_provider(begun.headers["location"])
    assert (
        await api.client.get(back, params={**_query(back), "iss": "https://another.example"})
    ).status_code == 401


async def test_answer_without_the_issuer_that_the_provider_promises_is_refused(
    api: Api, provider: Provider
) -> None:
    provider.control("promises_iss")
    assert (await sign_in(api)).status_code == 401
    begun = await api.client.get("/auth/oidc/corp/login")
    back = await at_the_provider(begun.headers["location"])
    response = await api.client.get(back, params={**_query(back), "iss": provider.issuer})
    assert response.status_code == 200


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def test_provider_may_change_its_key(
    api: Api, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.identity.oidc._KEYS_AT_MOST_EVERY_SECONDS", 0.0)
    assert (await sign_in(api)).status_code == 200
    provider.control(rotate=True)
    assert (await sign_in(api)).status_code == 200


KEYS_THAT_ARE_NOT_UNDERSTOOD: list[Any] = [
    {"kty": "EC", "crv": "BP-256", "x": "AA", "y": "AA", "kid": "a curve"},
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "no point"},
    {"kty": "OKP", "crv": "X999", "x": "AAAA", "kid": "another curve"},
    {"kty": "RSA", "x5c": ["AAAA"], "kid": "a certificate alone"},
    {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "a type"},
    {"kid": "no type"},
    {"kty": ["RSA"]},
    "no key",
]


async def test_keys_that_are_not_understood_are_passed_over(api: Api, provider: Provider) -> None:
    """RFC 7517, section 5: a provider may publish keys of a kind to come beside those of today."""
    provider.control(more_keys=KEYS_THAT_ARE_NOT_UNDERSTOOD)
    assert (await sign_in(api)).status_code == 200


async def test_provider_with_no_key_that_is_understood_is_a_503(api: Api, provider: Provider) -> None:
    provider.control("no_keys", more_keys=KEYS_THAT_ARE_NOT_UNDERSTOOD)
    assert (await sign_in(api)).status_code == 503
    provider.control()
    assert (await sign_in(api)).status_code == 200


async def test_provider_that_takes_the_secret_in_the_body_only_is_served_so(
    api: Api, provider: Provider
) -> None:
    provider.control("only_secret_post")
    assert (await sign_in(api)).status_code == 200


async def test_address_is_asked_of_userinfo_where_the_id_token_has_none(api: Api, provider: Provider) -> None:
    provider.control("email_by_userinfo")
    assert (await sign_in(api)).status_code == 200
    provider.control("email_by_userinfo", "userinfo_of_another", user={**USER, "sub": "subject-2"})
    assert (await sign_in(api)).status_code == 403, "what is said of somebody else does not count"


@pytest.mark.parametrize("change", [{"email_verified": False}, {"email_verified": "true"}, {"email": None}])
async def test_address_that_nobody_vouches_for_makes_no_account(
    api: Api, provider: Provider, change: dict[str, Any]
) -> None:
    provider.control(user={**USER, **change})
    assert (await sign_in(api)).status_code == 403
    assert await api.statements("SELECT id FROM users") == []


@pytest.mark.parametrize(
    "email",
    ["not an address", "gr\0ace@example.com", "\ud800@example.com", "x" * 250 + "@example.com"],
    ids=ascii,
)
async def test_what_is_no_address_makes_no_account(api: Api, provider: Provider, email: str) -> None:
    # By userinfo, since authlib cannot sign half a character.
    provider.control("email_by_userinfo", user={**USER, "email": email})
    assert (await sign_in(api)).status_code == 403
    assert await api.statements("SELECT id FROM users") == []


async def test_address_with_blanks_around_it_is_the_one_without(api: Api, provider: Provider) -> None:
    provider.control(user={**USER, "email": " Grace@Example.com "})
    account = Account(api, "", (await sign_in(api)).json()["data"])
    assert (await account.call("GET", "/users/me")).json()["email"] == "grace@example.com"
    provider.control(user={**USER, "sub": "subject-2", "email": " grace@example.com "})
    assert (await sign_in(api)).json()["error_code"] == "ADDRESS_TAKEN"


@pytest.mark.parametrize("subject", ["", "a\0b", "x" * 256, 123, ["a"]], ids=lambda sub: ascii(sub)[:9])
async def test_subject_that_cannot_be_one_is_refused(api: Api, provider: Provider, subject: Any) -> None:
    provider.control(user={**USER, "sub": subject})
    assert (await sign_in(api)).status_code == 401
    assert await api.statements("SELECT id FROM users") == []


async def test_longest_subject_is_kept_whole(api: Api, provider: Provider) -> None:
    provider.control(user={**USER, "sub": "x" * 255})
    account = Account(api, "", (await sign_in(api)).json()["data"])
    (identity,) = (await account.call("GET", "/users/me/identities")).json()["data"]
    assert identity["subject"] == "x" * 255


async def test_account_with_the_same_address_is_not_handed_over(api: Api) -> None:
    await api.client.post(
        "/auth/register",
        json={"username": "early_bird", "email": "grace@example.com", "password": "testpassword123"},
    )
    response = await sign_in(api)
    assert response.status_code == 409
    assert response.json()["error_code"] == "ADDRESS_TAKEN"
    assert len(await api.statements("SELECT id FROM users")) == 1


async def test_signed_in_user_adds_the_provider_and_then_signs_in_with_it(
    api: Api, provider: Provider
) -> None:
    account = await api.account("ada")
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    begun = await account.call("POST", "/auth/oidc/corp/link")
    assert begun.status_code == 200
    back = await at_the_provider(begun.json()["data"]["authorization_url"])
    assert (await api.client.get(back)).status_code == 200
    by_provider = Account(api, "", (await sign_in(api)).json()["data"])
    assert (await by_provider.call("GET", "/users/me")).json()["id"] == user_id
    (notice,) = await api.statements("SELECT * FROM jobs")
    assert "identity_added" in str(dict(notice)), "the user is told"
    (linked,) = (await account.call("GET", "/users/me/identities")).json()["data"]
    assert (linked["issuer"], linked["subject"]) == (provider.issuer, "subject-1")
    other = await api.account("bob")
    path = f"/users/me/identities/{linked['id']}"
    assert (await other.call("DELETE", path)).status_code == 404
    taken = await other.call("POST", "/auth/oidc/corp/link")
    back = await at_the_provider(taken.json()["data"]["authorization_url"])
    assert (await api.client.get(back)).status_code == 409, "it is another's already"
    assert (await account.call("DELETE", path)).status_code == 200
    assert (await account.call("GET", "/users/me/identities")).json()["data"] == []


async def linked(account: Account) -> list[str]:
    return [entry["id"] for entry in (await account.call("GET", "/users/me/identities")).json()["data"]]


async def add_provider(account: Account) -> httpx.Response:
    begun = await account.call("POST", "/auth/oidc/corp/link")
    back = await at_the_provider(begun.json()["data"]["authorization_url"])
    return await account.api.client.get(back)


async def reset_password(api: Api, username: str) -> None:
    async with api.database.transaction() as session:
        user = await users.find(session, username)
    assert user is not None
    body = {
        "token": recovery.make_token(api.identity.settings.security, user),
        "new_password": "a password that is new",
    }
    assert (await api.client.post("/auth/password/reset", json=body)).status_code == 200


@pytest.mark.parametrize("has_session", [True, False])
async def test_provider_cannot_be_added_after_the_sign_in_that_began_it_has_ended(
    api: Api, has_session: bool
) -> None:
    account = await api.account("ada")
    if not has_session:
        await account.without_session()
    begun = await account.call("POST", "/auth/oidc/corp/link")
    assert begun.status_code == 200, begun.text
    back = await at_the_provider(begun.json()["data"]["authorization_url"])
    await reset_password(api, "ada")
    assert (await api.client.get(back)).status_code == 401
    assert await api.statements("SELECT id FROM external_identities") == []
    if has_session:
        other = await api.again("ada", "a password that is new")
        assert (await add_provider(other)).status_code == 200


@pytest.mark.parametrize("has_session", [True, False])
async def test_provider_is_not_added_in_a_sign_in_that_has_ended_elsewhere(
    identity_settings: Callable[..., Any], provider: Provider, has_session: bool
) -> None:
    """Another process remembers the caller for the revocation delay, and begins it."""
    settings = with_provider(identity_settings, provider)
    async with start_api(settings) as one, start_api(settings) as two:
        account = await one.account("ada")
        if not has_session:
            await account.without_session()
        elsewhere = Account(two, "ada", account.tokens)
        assert (await elsewhere.call("GET", "/users/me")).status_code == 200
        assert (await account.call("POST", "/auth/logout")).status_code == 200
        await asyncio.sleep(1.1)  # a token tells the second in which it was made
        assert (await add_provider(elsewhere)).status_code == 401
        assert await one.statements("SELECT id FROM external_identities") == []


async def test_providers_that_could_not_be_added_leave_the_user_to_be_told_of_the_one_that_was(
    api: Api, provider: Provider
) -> None:
    assert (await sign_in(api)).status_code == 200
    account = await api.account("ada")
    for _ in range(3):
        assert (await add_provider(account)).status_code == 409, "it is another's"
    provider.control(user={**USER, "sub": "subject-2"})
    assert (await add_provider(account)).status_code == 200
    (notice,) = await api.statements("SELECT * FROM jobs")
    assert "identity_added" in str(dict(notice))


async def test_removed_provider_ends_the_other_sign_ins_through_providers(api: Api) -> None:
    account = await api.account("ada")
    thief = Account(api, "", (await add_provider(account)).json()["data"])
    (identity_id,) = await linked(account)
    assert (await account.call("DELETE", f"/users/me/identities/{identity_id}")).status_code == 200
    assert (await thief.call("GET", "/users/me")).status_code == 401
    assert (await thief.refresh()).status_code == 401
    assert (await account.call("GET", "/users/me")).status_code == 200

    caller = Account(api, "", (await add_provider(account)).json()["data"])
    other = Account(api, "", (await sign_in(api)).json()["data"])
    (identity_id,) = await linked(caller)
    assert (await caller.call("DELETE", f"/users/me/identities/{identity_id}")).status_code == 200
    assert (await caller.call("GET", "/users/me")).status_code == 200, "the caller's own goes on"
    assert (await other.call("GET", "/users/me")).status_code == 401


async def test_sign_in_under_way_through_a_provider_that_is_removed_meanwhile_does_not_reach_the_account(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await api.account("ada")
    assert (await add_provider(account)).status_code == 200
    (identity_id,) = await linked(account)
    find_user, asked = external_rows.find_user, 0

    async def slow_find_user(*arguments: Any) -> Any:
        nonlocal asked
        found = await find_user(*arguments)
        asked += 1
        if asked == 1:
            assert (await account.call("DELETE", f"/users/me/identities/{identity_id}")).status_code == 200
        return found

    monkeypatch.setattr(external_rows, "find_user", slow_find_user)
    signed_in = await sign_in(api)
    assert signed_in.status_code == 200, "with an account of its own, as anybody whom nobody knows"
    stranger = Account(api, "", signed_in.json()["data"])
    assert (await stranger.call("GET", "/users/me")).json()["username"] != "ada"


async def test_of_two_removals_at_once_one_way_in_remains(api: Api, provider: Provider) -> None:
    account = Account(api, "", (await sign_in(api)).json()["data"])
    provider.control(user={**USER, "sub": "subject-2"})
    assert (await add_provider(account)).status_code == 200
    removals = (account.call("DELETE", f"/users/me/identities/{found}") for found in await linked(account))
    statuses = sorted(response.status_code for response in await asyncio.gather(*removals))
    assert statuses == [200, 409]
    assert len(await linked(account)) == 1


async def test_last_way_in_cannot_be_removed_and_an_account_without_a_password_has_none_to_guess(
    api: Api,
) -> None:
    account = Account(api, "", (await sign_in(api)).json()["data"])
    (linked,) = (await account.call("GET", "/users/me/identities")).json()["data"]
    assert (await account.call("DELETE", f"/users/me/identities/{linked['id']}")).status_code == 409
    for password in ("", "x", "!"):
        response = await api.client.post(
            "/auth/login", json={"username": "grace_hopper", "password": password}
        )
        assert response.status_code in {401, 422}


async def test_name_that_is_taken_gets_something_after_it(api: Api, provider: Provider) -> None:
    await api.account("grace_hopper")
    account = Account(api, "", (await sign_in(api)).json()["data"])
    username = (await account.call("GET", "/users/me")).json()["username"]
    assert username.startswith("grace_hopper_")
    provider.control(user={"sub": "subject-9", "email": "é@example.com", "email_verified": True})
    account = Account(api, "", (await sign_in(api)).json()["data"])
    assert (await account.call("GET", "/users/me")).json()["username"].startswith("user_")


async def test_disabled_user_is_refused_here_too(api: Api) -> None:
    admin = await api.account("root_user", role="admin")
    account = Account(api, "", (await sign_in(api)).json()["data"])
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": False})
    assert (await sign_in(api)).status_code == 401


async def test_closed_registration_makes_no_account(
    identity_settings: Callable[..., Any], provider: Provider
) -> None:
    settings = with_provider(identity_settings, provider, security={"registration_enabled": False})
    async with start_api(settings) as api:
        assert (await sign_in(api)).status_code == 403


async def test_refusal_at_the_provider_and_an_unknown_provider(api: Api) -> None:
    await api.client.get("/auth/oidc/corp/login")
    assert (
        await api.client.get(CALLBACK, params={"error": "access_denied", "state": "x"})
    ).status_code == 401
    assert (await api.client.get("/auth/oidc/nobody/login")).status_code == 404
    assert (await api.client.get("/auth/oidc")).json()["data"] == ["corp"]


async def test_provider_that_is_away_is_a_503(identity_settings: Callable[..., Any]) -> None:
    away = Provider(f"http://127.0.0.1:{find_free()}")
    async with start_api(with_provider(identity_settings, away)) as api:
        response = await api.client.get("/auth/oidc/corp/login")
        assert response.status_code == 503
        assert response.json()["success"] is False
