"""Counts what each kind of request costs: `python -m tests.integration.hot_path.count POSTGRES_URL REDIS_URL`.

In a process of its own, because the bench product must not be known to the one that runs the tests. Sends each request
many times, one after another, and prints for each the least of what it cost: what the process does beside requests
(its observer, its pools, a lease of the rate limit) only ever adds. As one JSON object by name: `statements`,
`postgres_round_trips`, `commands`, `redis_round_trips`, `calls` (of Python functions).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import Settings

from tests.bench.product.registry import PRODUCT
from tests.integration.hot_path.wire import PostgresParser, RedisParser, Traffic, proxy

TIMES = 25
PASSWORD = "correct-horse-battery-staple-7"


@dataclass
class Request:
    """One request and what is to be seen of it."""

    method: str
    path: str
    body: dict[str, Any] | None = None


class Client:
    """Calls the application as a server does, on the same loop."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.token = ""
        self.calls = 0

    async def send(self, request: Request) -> tuple[int, bytes]:
        """Status and body of the answer. `calls` tells afterwards how many Python functions were called."""
        raw = b"" if request.body is None else json.dumps(request.body).encode()
        headers = [(b"host", b"testserver"), (b"content-length", str(len(raw)).encode())]
        if request.body is not None:
            headers.append((b"content-type", b"application/json"))
        if self.token:
            headers.append((b"authorization", f"Bearer {self.token}".encode()))
        path, _, query = request.path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": request.method, "scheme": "http", "path": path, "raw_path": path.encode(),
            "query_string": query.encode(), "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        sent: list[Any] = []
        is_read = False

        async def receive() -> dict[str, Any]:
            nonlocal is_read
            if is_read:
                await asyncio.Event().wait()  # the client stays
            is_read = True
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        self.calls = 0
        sys.setprofile(self._note_call)
        try:
            await self._app(scope, receive, send)
        finally:
            sys.setprofile(None)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], body

    def _note_call(self, _frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            self.calls += 1


async def sign_in(client: Client) -> str:
    """The token of a new sign-in of the one user, who is made if need be."""
    user = {"username": "hot", "password": PASSWORD}
    client.token = ""
    await client.send(Request("POST", "/auth/register", {**user, "email": "hot@example.com"}))
    status, body = await client.send(Request("POST", "/auth/login", user))
    assert status == 200, body
    token: str = json.loads(body)["access_token"]
    return token


async def cost_of(
    client: Client, requests: Sequence[Request], postgres: Traffic, redis: Traffic, *, token: str = ""
) -> dict[str, Any]:
    """The least that one of these requests costs, in each respect. token: in place of the client's own."""
    client.token = token or client.token
    rounds: list[dict[str, Any]] = []
    for request in requests:
        before = len(postgres.spoken), postgres.round_trips, len(redis.spoken), redis.round_trips
        status, body = await client.send(request)
        assert status < 300, body
        rounds.append(
            {
                "statements": postgres.spoken[before[0] :],
                "postgres_round_trips": postgres.round_trips - before[1],
                "commands": redis.spoken[before[2] :],
                "redis_round_trips": redis.round_trips - before[3],
                "calls": client.calls,
            }
        )
    return least(rounds)


def least(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The smallest of each figure, the shortest of each list."""
    return {
        name: min(
            (cost[name] for cost in costs), key=lambda value: len(value) if isinstance(value, list) else value
        )
        for name in costs[0]
    }


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Client]:
    """A client of the application, which has started on this loop."""
    app = create_app(settings, PRODUCT)
    async with app.router.lifespan_context(app):
        yield Client(app)


async def main(postgres_url: str, redis_url: str) -> dict[str, Any]:
    """Everything that is counted."""
    found: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        postgres_port, postgres = stack.enter_context(proxy(urlsplit(postgres_url).port or 0, PostgresParser))
        redis_port, redis = stack.enter_context(proxy(urlsplit(redis_url).port or 0, RedisParser))
        settings = _settings(_through(postgres_url, postgres_port), _through(redis_url, redis_port))
        configure_logging(settings)
        database = DatabaseManager(settings, migrations=(PRODUCT.migrations,))
        await asyncio.to_thread(Migrator(database).upgrade)
        await asyncio.to_thread(database.engine.dispose)
        async with running(settings) as client:
            tokens = [await sign_in(client) for _ in range(12)]
            client.token = tokens[0]
            new = Request("POST", "/items", {"title": "An item", "description": "of the count"})
            _, body = await client.send(new)
            item = json.loads(body)["data"]["id"]
            for _ in range(99):
                await client.send(new)
            works = {
                "users/me": Request("GET", "/users/me"),
                "read": Request("GET", f"/items/{item}"),
                "list": Request("GET", "/items?limit=100"),
                "cached read": Request("GET", f"/cached/items/{item}"),
                "create": new,
                "create in a session": Request("POST", "/transactions/items", new.body),
                "enqueue": Request("POST", f"/items/{item}/measure"),
                "enqueue in a session": Request("POST", f"/transactions/items/{item}/measure"),
                "start a task": Request("POST", "/tasks/background", {"some": "data"}),
            }
            for name, request in works.items():
                found[name] = await cost_of(client, [request] * TIMES, postgres, redis)
            _, body = await client.send(Request("GET", f"/items?limit={TIMES}"))
            cached = [
                Request("GET", f"/cached/items/{one['id']}") for one in json.loads(body)["data"]["items"]
            ]
            for request in cached:
                await client.send(request)
        # Another process: it knows none of the tokens, and finds in Redis what the first has cached.
        async with running(settings) as other:
            found["token not seen before"] = least(
                [await cost_of(other, [works["users/me"]], postgres, redis, token=token) for token in tokens]
            )
            found["cached by another process"] = await cost_of(other, cached, postgres, redis)
    return found


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")).geturl()


def _settings(postgres_url: str, redis_url: str) -> Settings:
    often = "1000000/minute"
    values: dict[str, Any] = {
        "environment": "test",
        "security": {"bcrypt_rounds": 4, "access_token_expire_minutes": 1440},
        # patient, because the machine that runs the tests may be busy
        "database": {"database_url": postgres_url, "slow_query_seconds": 60.0},
        "redis": {"redis_url": redis_url, "command_timeout_seconds": 20.0, "key_prefix": "hot"},
        "rate_limit": {"user": often, "anonymous": often, "auth": often, "store_timeout_seconds": 10.0},
        "jobs": {"mode": "worker"},
        "logging": {"format": "json"},
    }
    return Settings(_env_file=None, **values)  # type: ignore[call-arg]


if __name__ == "__main__":
    counted = asyncio.run(main(*sys.argv[1:]))
    print("COUNTED " + json.dumps(counted))
