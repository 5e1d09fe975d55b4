"""Row 18: refresh tokens are single use, a late reuse ends the family, retries log nobody out; and signing out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from scalable_fastapi_system.identity.audit import NO_CLIENT
from scalable_fastapi_system.identity.service import sessions
from scalable_fastapi_system.identity.tokens import TokenType
from scalable_fastapi_system.kit.clock import utc_now

from tests.integration.identity.conftest import Account, Api, start_api

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

GRACE_SECONDS = 10


async def revocations(api: Api) -> list[str | None]:
    rows = await api.statements("SELECT revoked_reason FROM auth_sessions ORDER BY created_at")
    return [row["revoked_reason"] for row in rows]


async def test_refresh_gives_new_tokens_that_work(api: Api) -> None:
    account = await api.account()
    response = await account.refresh()
    assert response.status_code == 200
    body = response.json()
    assert body["access_token"] == body["data"]["access_token"] != account.tokens["access_token"]
    assert body["refresh_token"] != account.tokens["refresh_token"]
    account.tokens = body["data"]
    assert (await account.call("GET", "/users/me")).status_code == 200


async def test_chain_of_refreshes_goes_on(api: Api) -> None:
    account = await api.account()
    for _ in range(8):
        response = await account.refresh()
        assert response.status_code == 200
        account.tokens = response.json()["data"]
    assert await revocations(api) == [None]


async def test_twenty_refreshes_at_once_log_nobody_out(api: Api) -> None:
    account = await api.account()
    responses = await asyncio.gather(*(account.refresh() for _ in range(20)))
    assert [response.status_code for response in responses] == [200] * 20
    followers = await asyncio.gather(
        *(account.refresh(response.json()["refresh_token"]) for response in responses)
    )
    assert [response.status_code for response in followers] == [200] * 20
    assert await revocations(api) == [None]
    generations = {
        api.identity.security.verify_token(response.json()["refresh_token"], TokenType.REFRESH)["gen"]
        for response in responses
    }
    assert generations == {2}, "one of them rotated, the others were given the same"


async def test_late_reuse_ends_the_family_and_that_outlives_the_error(
    identity_settings: Callable[..., Any],
) -> None:
    async with start_api(identity_settings(security={"refresh_reuse_grace_seconds": 0})) as api:
        thief_and_owner = await api.account()
        stolen = thief_and_owner.tokens["refresh_token"]
        first = await thief_and_owner.refresh()
        assert first.status_code == 200
        await asyncio.sleep(0.01)
        reused = await thief_and_owner.refresh(stolen)
        assert reused.status_code == 401
        assert await revocations(api) == ["reuse"]
        owner = Account(api, "ada", first.json()["data"])
        assert (await owner.refresh()).status_code == 401, "the newest token of the family is dead, too"
        assert (await owner.call("GET", "/users/me")).status_code == 401, "and so is its access token"
        actions = [row["action"] for row in await api.statements("SELECT action FROM audit_log ORDER BY at")]
        assert actions[-1] == "refresh_token_reused"


async def test_reuse_of_one_family_leaves_the_users_others_alone(
    identity_settings: Callable[..., Any],
) -> None:
    async with start_api(identity_settings(security={"refresh_reuse_grace_seconds": 0})) as api:
        account = await api.account()
        other = await api.again("ada")
        await account.refresh()
        await asyncio.sleep(0.01)
        assert (await account.refresh()).status_code == 401
        assert (await other.call("GET", "/users/me")).status_code == 200
        assert (await other.refresh()).status_code == 200


async def test_grace_is_measured_from_the_replacement_of_each_token(api: Api) -> None:
    """The whole of rule 18 with a clock in hand."""
    account = await api.account()
    session_id = UUID(account.tokens["session_id"])
    start = api.identity.clock.now()

    async def rotate(generation: int, at_seconds: float) -> sessions.Rotation:
        async with api.database.transaction() as session:
            return await sessions.rotate(
                session,
                session_id=session_id,
                generation=generation,
                client=NO_CLIENT,
                now=start + timedelta(seconds=at_seconds),
                grace_seconds=GRACE_SECONDS,
            )

    async def generation_after(generation: int, at_seconds: float) -> int | str | None:
        found = await rotate(generation, at_seconds)
        return found.refusal or (found.sign_in and found.sign_in.generation)

    assert await generation_after(1, 1) == 2
    assert await generation_after(2, 2) == 3
    assert await generation_after(1, 5) == 3, "replaced at 1: still a retry"
    assert await generation_after(2, 11.5) == 3, "replaced at 2: still a retry"
    assert await generation_after(3, 60) == 4
    assert await generation_after(9, 61) == "unknown", "ahead of the database: refused, no theft"
    assert await generation_after(3, 70) == 4
    assert await generation_after(3, 70.5) == "reuse"
    assert await generation_after(4, 71) == "revoked"


async def test_sign_in_ends_absolutely_however_often_it_is_refreshed(api: Api) -> None:
    account = await api.account()
    session_id = UUID(account.tokens["session_id"])
    start = api.identity.clock.now()
    lifetime = api.identity.sign_in_lifetime
    for generation, moment in ((1, lifetime / 2), (2, lifetime - timedelta(seconds=5))):
        async with api.database.transaction() as session:
            found = await sessions.rotate(
                session,
                session_id=session_id,
                generation=generation,
                client=NO_CLIENT,
                now=start + moment,
                grace_seconds=GRACE_SECONDS,
            )
        assert found.refusal is None
        assert found.user is not None
        assert found.sign_in is not None
        pair = sessions.issue(
            api.identity.security, user=found.user, sign_in=found.sign_in, now=start + moment
        )
        assert pair.expires_in <= (found.sign_in.expires_at - (start + moment)).total_seconds()
    async with api.database.transaction() as session:
        late = await sessions.rotate(
            session,
            session_id=session_id,
            generation=3,
            client=NO_CLIENT,
            now=start + lifetime + timedelta(seconds=1),
            grace_seconds=GRACE_SECONDS,
        )
    assert late.refusal == "ended"


async def test_refresh_token_that_names_no_session_or_anothers_type_is_refused(api: Api) -> None:
    account = await api.account()
    by_hand = api.identity.security.create_refresh_token({"sub": "ada", "user_id": 1})
    for token in (by_hand, account.tokens["access_token"], "nonsense", "a.b.c"):
        assert (await account.refresh(token)).status_code == 401
    assert (await account.call("GET", "/users/me")).status_code == 200
    account.tokens["access_token"] = account.tokens["refresh_token"]
    assert (await account.call("GET", "/users/me")).status_code == 401


async def test_signing_out_ends_this_sign_in_and_no_other(api: Api) -> None:
    account, other = await api.account(), await api.again("ada")
    response = await account.call("POST", "/auth/logout")
    assert response.json()["data"] == {"sessions_ended": 1}
    assert (await account.call("GET", "/users/me")).status_code == 401
    assert (await account.refresh()).status_code == 401
    assert (await other.call("GET", "/users/me")).status_code == 200
    assert (await other.refresh()).status_code == 200


async def test_signing_out_everywhere_ends_all_and_tokens_without_a_session(api: Api) -> None:
    account, other = await api.account(), await api.again("ada")
    user_id = (await account.call("GET", "/users/me")).json()["id"]
    by_hand = Account(api, "ada", {})
    by_hand.tokens["access_token"] = api.identity.security.create_access_token(
        {"sub": "ada", "user_id": user_id}
    )
    assert (await by_hand.call("GET", "/users/me")).status_code == 200
    response = await account.call("POST", "/auth/logout", json={"everywhere": True})
    assert response.json()["data"] == {"sessions_ended": 2}
    for one in (account, other, by_hand):
        assert (await one.call("GET", "/users/me")).status_code == 401
    assert (await other.refresh()).status_code == 401
    assert (await (await api.again("ada")).call("GET", "/users/me")).status_code == 200


async def test_refresh_token_signs_out_where_the_access_token_has_expired(api: Api) -> None:
    account = await api.account()
    body = {"refresh_token": account.tokens["refresh_token"]}
    assert (await api.client.post("/auth/logout", json=body)).json()["data"] == {"sessions_ended": 1}
    assert (await account.refresh()).status_code == 401
    assert (await api.client.post("/auth/logout")).status_code == 401


async def test_refresh_token_that_is_not_good_any_more_ends_no_other_sign_in(
    identity_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class AfterTheGrace:
        def now(self) -> datetime:
            return utc_now() + timedelta(seconds=GRACE_SECONDS + 1)

    async def everywhere(api: Api, token: str) -> int:
        body = {"refresh_token": token, "everywhere": True}
        response = await api.client.post("/auth/logout", json=body)
        assert response.status_code == 200, response.text
        ended: int = response.json()["data"]["sessions_ended"]
        return ended

    async with start_api(identity_settings(security={"refresh_reuse_grace_seconds": GRACE_SECONDS})) as api:
        account = await api.account()
        assert (await account.call("POST", "/auth/logout")).status_code == 200
        other = await api.again("ada")
        assert await everywhere(api, account.tokens["refresh_token"]) == 0, "its sign-in has ended"
        third = await api.again("ada")
        stolen = third.tokens["refresh_token"]
        third.tokens = (await third.refresh()).json()["data"]
        with monkeypatch.context() as later:
            later.setattr(api.identity, "clock", AfterTheGrace())
            assert await everywhere(api, stolen) == 1, "replaced: its own sign-in ends, and that alone"
        assert (await third.call("GET", "/users/me")).status_code == 401
        assert (await other.call("GET", "/users/me")).status_code == 200
        fourth = await api.again("ada")
        await fourth.refresh()
        assert await everywhere(api, fourth.tokens["refresh_token"]) == 2, "within the grace it is good"
        assert (await other.call("GET", "/users/me")).status_code == 401
        assert await everywhere(api, fourth.tokens["refresh_token"]) == 0


async def test_expired_access_token_beside_the_refresh_token_does_not_keep_anybody_signed_in(
    api: Api,
) -> None:
    account = await api.account()
    claims = {"sub": "ada", "user_id": 1, "sid": account.tokens["session_id"]}
    account.tokens["access_token"] = api.identity.security.create_access_token(claims, timedelta(seconds=-1))
    assert (await account.call("GET", "/users/me")).json()["error_code"] == "TOKEN_EXPIRED"
    assert (await account.call("POST", "/auth/logout")).status_code == 401
    response = await account.call(
        "POST", "/auth/logout", json={"refresh_token": account.tokens["refresh_token"]}
    )
    assert response.status_code == 200, response.text
    assert (await account.refresh()).status_code == 401


async def test_list_shows_the_own_sign_ins_and_one_can_be_ended(api: Api) -> None:
    account, other = await api.account(), await api.again("ada")
    stranger = await api.account("bob")
    listed = (await account.call("GET", "/auth/sessions")).json()["data"]
    assert {entry["id"]: entry["is_current"] for entry in listed} == {
        account.tokens["session_id"]: True,
        other.tokens["session_id"]: False,
    }
    path = f"/auth/sessions/{other.tokens['session_id']}"
    assert (await stranger.call("DELETE", path)).status_code == 404, "another's is not there"
    assert (await other.call("GET", "/users/me")).status_code == 200
    assert (await account.call("DELETE", path)).status_code == 200
    assert (await account.call("DELETE", path)).status_code == 404
    assert (await other.call("GET", "/users/me")).status_code == 401
    assert len((await account.call("GET", "/auth/sessions")).json()["data"]) == 1


async def test_evidence_of_a_reuse_is_not_cleaned_away_before_the_family_ends(api: Api) -> None:
    from scalable_fastapi_system.identity.repository import sessions as rows

    await api.account()
    async with api.database.transaction() as session:
        assert await rows.delete_ended(session, api.identity.clock.now()) == 0
        later = api.identity.clock.now() + api.identity.sign_in_lifetime + timedelta(days=1)
        assert await rows.delete_ended(session, later) == 1
