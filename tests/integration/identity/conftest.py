"""The API on each kind of database, and how to register and sign in there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from scalable_fastapi_system import create_app
from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings

PASSWORD = "testpassword123"


@dataclass
class Account:
    """A signed-in user of a test."""

    api: Api
    username: str
    tokens: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.api.client.request(method, path, headers=self.headers, **options)

    async def without_session(self) -> None:
        """Puts a token that belongs to no session, as a product may make it, in the place of the access token."""
        claims = {"sub": self.username, "user_id": (await self.call("GET", "/users/me")).json()["id"]}
        self.tokens["access_token"] = self.api.identity.security.create_access_token(claims)

    async def refresh(self, token: str | None = None) -> httpx.Response:
        body = {"refresh_token": token or self.tokens["refresh_token"]}
        return await self.api.client.post("/auth/refresh", json=body)


@dataclass
class Api:
    """One process of the API, in this one."""

    app: FastAPI
    client: httpx.AsyncClient

    @property
    def identity(self) -> Identity:
        found: Identity = self.app.state.identity
        return found

    @property
    def database(self) -> DatabaseManager:
        found: DatabaseManager = self.app.state.resources.database
        return found

    async def register(self, username: str, password: str = PASSWORD) -> httpx.Response:
        body = {"username": username, "email": f"{username}@example.com", "password": password}
        return await self.client.post("/auth/register", json=body)

    async def sign_in(self, username: str, password: str = PASSWORD) -> httpx.Response:
        return await self.client.post("/auth/login", data={"username": username, "password": password})

    async def account(self, username: str = "ada", *, role: str | None = None) -> Account:
        """A new user, signed in."""
        response = await self.register(username)
        assert response.status_code == 200, response.text
        if role is not None:
            from scalable_fastapi_system.identity.audit import NO_CLIENT
            from scalable_fastapi_system.identity.service.accounts import set_access

            user_id = response.json()["data"]["id"]
            async with self.database.transaction() as session:
                await set_access(
                    session,
                    user_id=user_id,
                    source="test",
                    client=NO_CLIENT,
                    now=self.identity.clock.now(),
                    role=role,
                )
        return await self.again(username)

    async def again(self, username: str, password: str = PASSWORD) -> Account:
        """The user in one more sign-in."""
        signed_in = await self.sign_in(username, password)
        assert signed_in.status_code == 200, signed_in.text
        return Account(self, username, signed_in.json()["data"])

    async def statements(self, query: str) -> list[Any]:
        """The rows of a query of the test's own."""
        from sqlalchemy import text

        async with self.database.transaction() as session:
            return list((await session.execute(text(query))).mappings().all())


StartApi = Callable[[Settings], contextlib.AbstractAsyncContextManager[Api]]


@contextlib.asynccontextmanager
async def start_api(settings: Settings) -> AsyncIterator[Api]:
    """An API that runs, as its server would run it."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api.test") as client,
    ):
        yield Api(app, client)


@pytest.fixture
def identity_settings(
    make_settings: Callable[..., Settings], database_section: dict[str, Any]
) -> Callable[..., Settings]:
    """Settings on that database; a test adds sections."""

    def make(**sections: Any) -> Settings:
        rate_limit = {"enabled": False, **sections.pop("rate_limit", {})}
        return make_settings(database=database_section, rate_limit=rate_limit, **sections)

    return make


@pytest.fixture
async def api(identity_settings: Callable[..., Settings]) -> AsyncIterator[Api]:
    """The API on each kind of database."""
    async with start_api(identity_settings()) as running:
        yield running
