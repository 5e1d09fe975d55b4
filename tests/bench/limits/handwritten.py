"""The same work by hand: FastAPI, a JWT dependency, raw asyncpg and redis-py. Nothing else is on.

It stands for what a good engineer writes in an afternoon: a pool, prepared statements, response models, which FastAPI
turns into JSON by pydantic's own serializer. It has no request id, log line, metric, security header, limit or error
envelope. `tuned` is the same by somebody who has measured: no reset of connections, rows straight to orjson.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import redis.asyncio as redis
from fastapi import FastAPI, HTTPException, Response

from tests.bench.limits.shapes import PAGE_SIZE, Caller, ItemIn, ItemOut, ItemsOut, UserOut

_POOL_SIZE = 16
_ME = "SELECT id, username, email, role, is_active, created_at, updated_at FROM users WHERE id = $1"
_ITEM = "SELECT id, owner_id, title, description, created_at FROM items WHERE id = $1 AND owner_id = $2"
_ITEMS = (
    "SELECT id, owner_id, title, description, created_at FROM items WHERE owner_id = $1 "
    "ORDER BY created_at DESC, id DESC LIMIT $2"
)
_NEW_ITEM = (
    "INSERT INTO items (id, owner_id, title, description, created_at) VALUES ($1, $2, $3, $4, now()) "
    "RETURNING id, owner_id, title, description, created_at"
)
_CACHE_SECONDS = 300


async def _no_reset(_connection: Any) -> None:
    pass


def _by_model(content: Any, _status_code: int = 200) -> Any:
    return content


def _by_orjson(content: Any, status_code: int = 200) -> Any:
    return Response(orjson.dumps(content, default=str), status_code, media_type="application/json")


def app(*, is_tuned: bool = False) -> FastAPI:
    """With asyncpg's pool as it comes, which resets each connection by a round trip, and with checked answers."""
    options: dict[str, Any] = {"reset": _no_reset} if is_tuned else {}
    answer = _by_orjson if is_tuned else _by_model

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.redis = redis.from_url(os.environ["REDIS_URL"], max_connections=64)
        async with asyncpg.create_pool(
            os.environ["DSN"], min_size=_POOL_SIZE, max_size=_POOL_SIZE, **options
        ) as app.state.pool:
            yield
        await app.state.redis.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/users/me", response_model=UserOut)
    async def me(caller: Caller) -> Any:
        row = await app.state.pool.fetchrow(_ME, caller)
        if row is None:
            raise HTTPException(404)
        return answer(dict(row))

    @app.get("/items/{item_id}", response_model=ItemOut)
    async def item(item_id: uuid.UUID, caller: Caller) -> Any:
        row = await app.state.pool.fetchrow(_ITEM, item_id, caller)
        if row is None:
            raise HTTPException(404)
        return answer(dict(row))

    @app.get("/items", response_model=ItemsOut)
    async def items(caller: Caller, limit: int = PAGE_SIZE) -> Any:
        rows = await app.state.pool.fetch(_ITEMS, caller, limit)
        return answer({"data": [dict(row) for row in rows]})

    @app.post("/items", response_model=ItemOut, status_code=201)
    async def create(new: ItemIn, caller: Caller) -> Any:
        row = await app.state.pool.fetchrow(_NEW_ITEM, uuid.uuid4(), caller, new.title, new.description)
        return answer(dict(row), 201)

    @app.get("/cached/items/{item_id}", response_model=ItemOut)
    async def cached_item(item_id: uuid.UUID, caller: Caller) -> Any:
        key = f"item:{caller}:{item_id}"
        body = await app.state.redis.get(key)
        if body is None:
            row = await app.state.pool.fetchrow(_ITEM, item_id, caller)
            if row is None:
                raise HTTPException(404)
            body = ItemOut.model_validate(dict(row)).model_dump_json().encode()
            await app.state.redis.set(key, body, ex=_CACHE_SECONDS)
        return Response(body, media_type="application/json")

    @app.get("/cached/items", response_model=ItemsOut)
    async def cached_items(caller: Caller) -> Any:
        key = f"items:{caller}"
        body = await app.state.redis.get(key)
        if body is None:
            rows = await app.state.pool.fetch(_ITEMS, caller, PAGE_SIZE)
            body = ItemsOut.model_validate({"data": [dict(row) for row in rows]}).model_dump_json().encode()
            await app.state.redis.set(key, body, ex=_CACHE_SECONDS)
        return Response(body, media_type="application/json")

    return app


def tuned() -> FastAPI:
    """The same without the reset and without response models: what a hand-written application can reach at the most."""
    return app(is_tuned=True)
