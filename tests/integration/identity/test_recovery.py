"""Forgotten passwords and notices: delivered by a job to a real mail server, single use, and silent about who exists."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest
from scalable_fastapi_system.identity.models import ExternalIdentity
from scalable_fastapi_system.identity.repository import audit, external
from scalable_fastapi_system.identity.service import recovery
from scalable_fastapi_system.identity.tokens import TokenType

from tests.integration.identity.conftest import PASSWORD, Api, start_api
from tests.support.mail_server import MailServer

pytestmark = pytest.mark.databases("sqlite", "postgres")

NEW_PASSWORD = "a password that is new"
_TOKEN = re.compile(r"#token=([\w.-]+)")


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
async def api(identity_settings: Callable[..., Any], mail: MailServer) -> AsyncIterator[Api]:
    settings = identity_settings(
        mail={"smtp_url": mail.url, "public_url": "https://app.example.com"}, jobs={"mode": "embedded"}
    )
    async with start_api(settings) as running:
        yield running


async def forgot(api: Api, email: str) -> Any:
    return await api.client.post("/auth/password/forgot", json={"email": email})


async def arrived(mail: MailServer, count: int) -> list[EmailMessage]:
    return await asyncio.to_thread(mail.wait_for, count)


def token_in(letter: EmailMessage) -> str:
    found = _TOKEN.search(letter.get_content())
    assert found is not None, letter.get_content()
    return found[1]


async def reset(api: Api, token: str, password: str = NEW_PASSWORD) -> Any:
    return await api.client.post("/auth/password/reset", json={"token": token, "new_password": password})


async def test_link_in_the_message_sets_a_password_once_and_ends_every_sign_in(
    api: Api, mail: MailServer
) -> None:
    account = await api.account("ada")
    assert (await forgot(api, "Ada@Example.com")).status_code == 202
    (letter,) = await arrived(mail, 1)
    assert letter["To"] == "ada@example.com"
    assert "https://app.example.com/auth/password/reset#token=" in letter.get_content()
    token = token_in(letter)
    assert (await reset(api, token)).status_code == 200
    assert (await account.call("GET", "/users/me")).status_code == 401
    assert (await account.refresh()).status_code == 401
    assert (await api.sign_in("ada")).status_code == 401
    assert (await api.sign_in("ada", NEW_PASSWORD)).status_code == 200
    again = await reset(api, token, "yet another password")
    assert again.status_code == 400
    assert again.json()["error_code"] == "RESET_LINK_INVALID"


async def test_links_in_messages_lead_to_pages_that_hold_nothing_but_what_their_policy_names(
    api: Api, mail: MailServer
) -> None:
    account = await api.account("ada")
    await forgot(api, "ada@example.com")
    await arrived(mail, 1)
    await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})
    links = [re.search(r"https://app.example.com(\S+)", one.get_content()) for one in await arrived(mail, 2)]
    paths = [link[1].partition("#")[0] for link in links if link is not None]
    assert sorted(paths) == ["/auth/password/forgot", "/auth/password/reset"]
    for path in paths:
        page = await api.client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-robots-tag"] == "noindex"
        assert page.headers["referrer-policy"] == "no-referrer"
        policy = dict(
            part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";")
        )
        assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == (
            "'none'",
            "'self'",
            "'none'",
        )
        for name in ("script", "style"):
            (text,) = re.findall(f"<{name}>(.*?)</{name}>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert policy[f"{name}-src"] == f"'sha256-{digest}'"
        assert re.findall(r"\s(?:src|style|on\w+)=", page.text) == []
        assert "{" not in re.sub(r"<(script|style)>.*?</\1>", "", page.text, flags=re.DOTALL)
        assert (await api.client.head(path)).status_code == 200
        refused = await api.client.put(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
        described = (await api.client.get("/openapi.json")).json()["paths"][path]
        assert set(described) == {"get", "post"}
        assert set(described["get"]["responses"]["200"]["content"]) == {"text/html"}


async def test_page_shows_the_title_as_text(identity_settings: Callable[..., Any]) -> None:
    async with start_api(identity_settings(api={"title": "Ada & <b>Co</b>"})) as api:
        page = (await api.client.get("/auth/password/reset")).text
    assert "<title>New password - Ada &amp; &lt;b&gt;Co&lt;/b&gt;</title>" in page


async def test_reset_ends_api_keys_and_removes_providers_and_the_user_is_told(
    api: Api, mail: MailServer
) -> None:
    """Whoever registered somebody's address before them, or had the account for a while, may have left those behind."""
    account = await api.account("ada")
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    other = await api.account("bob")
    keys = []
    for one in (account, other):
        made = await one.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})
        keys.append({"X-API-Key": made.json()["data"]["key"]})
        assert (await api.client.get("/users/me", headers=keys[-1])).status_code == 200
    async with api.database.transaction() as session:
        for number in (1, 2):
            await external.add(
                session,
                ExternalIdentity(user_id=user_id, issuer="https://corp.example", subject=str(number)),
            )
    assert [letter["Subject"] for letter in await arrived(mail, 2)] == [
        "An API key was added to your account"
    ] * 2
    await forgot(api, "ada@example.com")
    assert (await reset(api, token_in((await arrived(mail, 3))[2]))).status_code == 200
    told = (await arrived(mail, 4))[3]
    assert (told["To"], told["Subject"]) == ("ada@example.com", "Your password was changed")
    assert (await api.client.get("/users/me", headers=keys[0])).status_code == 401
    assert (await api.client.get("/users/me", headers=keys[1])).status_code == 200, "another's goes on"
    assert await api.statements("SELECT id FROM external_identities") == []
    async with api.database.transaction() as session:
        (event,) = [
            entry
            for entry in await audit.page(session, before=None, limit=9)
            if entry.action == "password_reset"
        ]
    assert event.detail == {"sessions_ended": 1, "api_keys_ended": 1, "identities_removed": 2}


async def test_who_makes_keys_one_after_another_fills_no_mailbox(api: Api, mail: MailServer) -> None:
    account = await api.account("ada")
    for number in range(5):
        made = await account.call("POST", "/api-keys", json={"name": f"k{number}", "scopes": ["*"]})
        assert made.status_code == 201
    await arrived(mail, 3)
    await asyncio.sleep(0.5)
    assert len(mail.messages) == 3


async def test_keys_that_could_not_be_made_leave_the_user_to_be_told_of_the_one_that_was(
    api: Api, mail: MailServer
) -> None:
    """Else a thief lets three fail and adds one that nobody hears of."""
    account = await api.account("ada")
    for _ in range(3):
        assert (await account.call("POST", f"/api-keys/{uuid4()}/rotate")).status_code == 404
        refused = await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["admin:users"]})
        assert refused.status_code == 403
    made = await account.call("POST", "/api-keys", json={"name": "k", "scopes": ["*"]})
    assert made.status_code == 201
    (letter,) = await arrived(mail, 1)
    assert letter["Subject"] == "An API key was added to your account"


async def test_answer_is_the_same_whether_there_is_such_a_user(api: Api, mail: MailServer) -> None:
    await api.register("ada")
    known, unknown = await forgot(api, "ada@example.com"), await forgot(api, "nobody@example.com")
    bodies = [{**response.json(), "request_id": None} for response in (known, unknown)]
    assert bodies[0] == bodies[1]
    assert known.status_code == unknown.status_code == 202
    await arrived(mail, 1)
    await asyncio.sleep(0.3)
    assert [letter["To"] for letter in mail.messages] == ["ada@example.com"]


async def test_fourth_request_in_a_row_sends_no_message_and_looks_like_the_others(
    api: Api, mail: MailServer
) -> None:
    await api.register("ada")
    responses = [await forgot(api, "ada@example.com") for _ in range(5)]
    assert {response.status_code for response in responses} == {202}
    await arrived(mail, 3)
    await asyncio.sleep(0.5)
    assert len(mail.messages) == 3


async def test_mail_server_that_refuses_delays_the_message_and_loses_none(api: Api, mail: MailServer) -> None:
    await api.register("ada")
    mail.is_refusing = True
    await forgot(api, "ada@example.com")
    await asyncio.sleep(0.5)
    assert mail.messages == []
    mail.is_refusing = False
    (letter,) = await arrived(mail, 1)
    assert (await reset(api, token_in(letter))).status_code == 200


async def test_token_of_another_kind_or_of_an_account_that_has_changed_is_refused(api: Api) -> None:
    account = await api.account("ada")
    async with api.database.transaction() as session:
        from scalable_fastapi_system.identity.repository import users

        user = await users.find(session, "ada")
    assert user is not None
    token = recovery.make_token(api.identity.settings.security, user)
    for wrong in (
        account.tokens["access_token"],
        account.tokens["refresh_token"],
        "x",
        "a.b.c",
        token[:-4] + "AAAA",
    ):
        assert (await reset(api, wrong)).status_code == 400
    account.tokens["access_token"] = token
    assert (await account.call("GET", "/users/me")).status_code == 401, "it signs nobody in"
    expired = api.identity.security.tokens.issue(
        TokenType.PASSWORD_RESET,
        {"sub": str(user.id), "state": recovery._fingerprint(user)},
        lifetime=timedelta(seconds=-1),
    )
    assert (await reset(api, expired)).status_code == 400
    fresh = await api.again("ada")
    await fresh.call("PUT", "/users/me", json={"email": "changed@example.com"})
    assert (await reset(api, token)).status_code == 400, "the address was changed since"


async def test_of_two_uses_at_once_one_succeeds(api: Api, mail: MailServer) -> None:
    await api.register("ada")
    await forgot(api, "ada@example.com")
    (letter,) = await arrived(mail, 1)
    token = token_in(letter)
    responses = await asyncio.gather(*(reset(api, token, f"{NEW_PASSWORD} {number}") for number in range(6)))
    assert sorted(response.status_code for response in responses) == [200] + [400] * 5


async def test_weak_password_is_refused_and_the_link_stays_good(api: Api, mail: MailServer) -> None:
    await api.register("ada_lovelace")
    await forgot(api, "ada_lovelace@example.com")
    (letter,) = await arrived(mail, 1)
    for weak in ("short", "Password1", "ada_lovelace99"):
        response = await reset(api, token_in(letter), weak)
        assert response.status_code == 422
        assert weak not in response.text
    assert (await reset(api, token_in(letter))).status_code == 200


async def test_reset_lets_its_browser_past_the_throttle(api: Api, mail: MailServer) -> None:
    """The way in for a victim whom guessers with many addresses keep out elsewhere."""
    await api.register("ada")
    for _ in range(12):
        await api.sign_in("ada", "wrong password")
    assert (await api.sign_in("ada")).status_code == 429
    await forgot(api, "ada@example.com")
    (letter,) = await arrived(mail, 1)
    assert (await reset(api, token_in(letter))).status_code == 200
    assert (await api.sign_in("ada", NEW_PASSWORD)).status_code == 200


async def test_disabled_user_gets_no_message_and_cannot_use_an_old_one(api: Api, mail: MailServer) -> None:
    admin, account = await api.account("root_user", role="admin"), await api.account("ada")
    await forgot(api, "ada@example.com")
    (letter,) = await arrived(mail, 1)
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    await admin.call("PATCH", f"/admin/users/{user_id}", json={"is_active": False})
    assert (await reset(api, token_in(letter))).status_code == 400
    await forgot(api, "ada@example.com")
    await asyncio.sleep(0.5)
    assert len(mail.messages) == 1


async def test_user_is_told_of_a_changed_address_at_the_former_one_and_of_a_changed_password(
    api: Api, mail: MailServer
) -> None:
    account = await api.account("ada")
    await account.call("PUT", "/users/me", json={"email": "new@example.com"})
    (letter,) = await arrived(mail, 1)
    assert (letter["To"], letter["Subject"]) == ("ada@example.com", "Your address was changed")
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await account.call("POST", "/users/me/password", json=body)).status_code == 200
    letter = (await arrived(mail, 2))[1]
    assert (letter["To"], letter["Subject"]) == ("new@example.com", "Your password was changed")


async def test_installation_that_cannot_send_says_so_before_it_looks_anyone_up(
    database_section: dict[str, Any], make_settings: Callable[..., Any]
) -> None:
    settings = make_settings(
        environment="production",
        database=database_section,
        security={"secret_key": "a secret of production, long enough for it"},
        rate_limit={"enabled": False},
    )
    async with start_api(settings) as api:
        for email in ("ada@example.com", "nobody@example.com"):
            assert (await forgot(api, email)).status_code == 503


async def test_development_shows_the_message_on_the_terminal(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    from scalable_fastapi_system.identity.mail import Message, TerminalSender

    await TerminalSender().send(Message("ada@example.com", "Set a new password", "the link"))
    shown = capsys.readouterr().err
    assert "ada@example.com" in shown
    assert "the link" in shown
