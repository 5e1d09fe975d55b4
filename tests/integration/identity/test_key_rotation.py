"""Row 17: signing keys rotate under load with no wrong 401, and what verifies them is published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, Key, KeySet

from tests.integration.identity.conftest import Account, Api, start_api

pytestmark = pytest.mark.databases("sqlite", "postgres")


def write(file: Path, *keys: Key) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps({"keys": [key.as_dict(private=True) for key in keys]}))
    temporary.replace(file)


def settings_with(identity_settings: Callable[..., Any], file: Path, **more: Any) -> Any:
    return identity_settings(
        security={"algorithm": "ES256", "signing_keys_file": str(file), **more}, logging={"access_log": False}
    )


async def test_keys_rotate_under_load_with_no_wrong_401(
    identity_settings: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.identity.keys._LOOK_AGAIN_SECONDS", 0.1)
    one, two, three = (ECKey.generate_key("P-256", {"kid": name}) for name in ("one", "two", "three"))
    file = tmp_path / "keys.json"
    write(file, one)
    async with start_api(settings_with(identity_settings, file)) as api:
        account = await api.account()
        statuses: list[int] = []
        kids: set[str] = set()
        holds: dict[int, str] = {}  # by client, the key of its token
        is_over = asyncio.Event()

        async def client(number: int, caller: Account) -> None:
            while not is_over.is_set():
                refreshed = await caller.refresh()
                statuses.append(refreshed.status_code)
                caller.tokens = refreshed.json()["data"]
                header = jwt.decode(
                    caller.tokens["access_token"], KeySet([one, two, three]), algorithms=["ES256"]
                ).header
                holds[number] = str(header["kid"])
                kids.add(holds[number])
                for _ in range(5):
                    api.identity.authenticator._known.clear()  # verified anew, as by a replica just started
                    statuses.append((await caller.call("GET", "/users/me")).status_code)

        clients = [
            asyncio.ensure_future(client(number, Account(api, "ada", (await api.again("ada")).tokens)))
            for number in range(4)
        ]
        for keys in ((one, two), (two, one), (two, three), (three, two)):
            await asyncio.sleep(0.4)
            write(file, *keys)
            async with asyncio.timeout(30):  # a key goes when nobody has a token of it
                while list(holds.values()) != [keys[0].kid] * 4:
                    await asyncio.sleep(0.01)
        await asyncio.sleep(0.4)
        is_over.set()
        await asyncio.gather(*clients)
        assert set(statuses) == {200}
        assert kids == {"one", "two", "three"}
        assert len(statuses) > 50
        assert (await account.call("GET", "/users/me")).status_code == 401, "the key of long ago is gone"
        assert (await account.refresh()).status_code == 200, "a refresh gets a token of today's key"


async def test_token_of_a_key_that_was_removed_is_refused_though_it_is_remembered(
    identity_settings: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.identity.keys._LOOK_AGAIN_SECONDS", 0.0)
    leaked, other = ECKey.generate_key("P-256", {"kid": "leaked"}), ECKey.generate_key("P-256", {"kid": "o"})
    file = tmp_path / "keys.json"
    write(file, leaked)
    async with start_api(settings_with(identity_settings, file, revocation_delay_seconds=1)) as api:
        account = await api.account()
        assert (await account.call("GET", "/users/me")).status_code == 200
        write(file, other, leaked)
        await asyncio.sleep(1.1)
        assert (await account.call("GET", "/users/me")).status_code == 200
        write(file, other)
        await asyncio.sleep(1.1)
        assert (await account.call("GET", "/users/me")).status_code == 401


async def test_published_set_verifies_an_access_token_and_holds_nothing_private(
    identity_settings: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    write(file, ECKey.generate_key("P-256", {"kid": "one"}), ECKey.generate_key("P-256", {"kid": "two"}))
    async with start_api(settings_with(identity_settings, file)) as api:
        account = await api.account()
        response = await api.client.get("/.well-known/jwks.json")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "public, max-age=60"
        keys = response.json()["keys"]
        assert [key["kid"] for key in keys] == ["one", "two"]
        assert all("d" not in key for key in keys)
        claims = jwt.decode(
            account.tokens["access_token"], KeySet.import_key_set(response.json()), algorithms=["ES256"]
        ).claims
        assert claims["sub"] == "ada"


async def test_nothing_is_published_of_a_shared_secret(api: Api) -> None:
    assert (await api.client.get("/.well-known/jwks.json")).json() == {"keys": []}
