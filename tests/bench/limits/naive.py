"""The stack that the guide and most tutorials draw: three `BaseHTTPMiddleware`, CORS, gzip and hosts, a rate limit
that reads and writes Redis at each request, structlog through the standard library, an ORM session for everything.
"""

import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import redis.asyncio as redis
import structlog
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from sqlalchemy import DateTime, ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse

from tests.bench.limits.shapes import PAGE_SIZE, Caller, ItemIn, ItemOut, ItemsOut, UserOut

_POOL_SIZE = 16
_MAX_PER_MINUTE = 10**9
_CACHE_SECONDS = 300
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "1; mode=block",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'",
    "Strict-Transport-Security": "max-age=31536000",
}
_Next = Callable[[Request], Awaitable[Response]]


class _Base(DeclarativeBase):
    pass


class User(_Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str]
    email: Mapped[str]
    role: Mapped[str]
    is_active: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Item(_Base):
    __tablename__ = "items"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str]
    description: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class _Logging(BaseHTTPMiddleware):
    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._log = structlog.get_logger("api")

    async def dispatch(self, request: Request, call_next: _Next) -> Response:
        request_id = str(uuid.uuid4())
        request.state.request_id = request_id
        address = request.client.host if request.client else ""
        facts = {"request_id": request_id, "method": request.method, "path": request.url.path}
        self._log.info("Request started", client_ip=address, **facts)
        started = time.time()
        response = await call_next(request)
        self._log.info(
            "Request completed", status_code=response.status_code, duration=time.time() - started, **facts
        )
        response.headers["X-Request-ID"] = request_id
        return response


class _Metrics(BaseHTTPMiddleware):
    def __init__(self, app: Any) -> None:
        super().__init__(app)
        registry = CollectorRegistry()
        self._total = Counter("requests_total", "", ["method", "path", "status"], registry=registry)
        self._seconds = Histogram("request_seconds", "", ["method", "path"], registry=registry)

    async def dispatch(self, request: Request, call_next: _Next) -> Response:
        started = time.time()
        response = await call_next(request)
        self._total.labels(request.method, request.url.path, response.status_code).inc()
        self._seconds.labels(request.method, request.url.path).observe(time.time() - started)
        return response


class _Security(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: _Next) -> Response:
        response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response


class _RateLimit(BaseHTTPMiddleware):
    def __init__(self, app: Any, client: Any) -> None:
        super().__init__(app)
        self._redis = client

    async def dispatch(self, request: Request, call_next: _Next) -> Response:
        key = f"rate_limit:{request.client.host if request.client else ''}"
        count = int(await self._redis.get(key) or 0)
        if count >= _MAX_PER_MINUTE:
            return JSONResponse({"detail": "Rate limit exceeded"}, 429)
        await self._redis.set(key, count + 1, ex=60)
        return await call_next(request)


def app() -> FastAPI:
    """The whole stack."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        context_class=dict,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    cache = redis.from_url(os.environ["REDIS_URL"], max_connections=64)
    engine = create_async_engine(
        os.environ["DSN"].replace("postgresql://", "postgresql+asyncpg://", 1),
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
    )
    make_session = async_sessionmaker(engine, expire_on_commit=False)

    async def session() -> AsyncIterator[AsyncSession]:
        async with make_session() as opened:
            yield opened

    Session = Annotated[AsyncSession, Depends(session)]

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()
        await cache.aclose()

    app = FastAPI(lifespan=lifespan)

    async def find(session: AsyncSession, item_id: uuid.UUID, caller: int) -> Item:
        item = await session.get(Item, item_id)
        if item is None or item.owner_id != caller:
            raise HTTPException(404)
        return item

    async def newest(session: AsyncSession, caller: int, limit: int) -> Any:
        query = select(Item).where(Item.owner_id == caller)
        query = query.order_by(Item.created_at.desc(), Item.id.desc()).limit(limit)
        return (await session.scalars(query)).all()

    @app.get("/users/me", response_model=UserOut)
    async def me(caller: Caller, session: Session) -> Any:
        user = await session.get(User, caller)
        if user is None:
            raise HTTPException(404)
        return user

    @app.get("/items/{item_id}", response_model=ItemOut)
    async def item(item_id: uuid.UUID, caller: Caller, session: Session) -> Any:
        return await find(session, item_id, caller)

    @app.get("/items", response_model=ItemsOut)
    async def items(caller: Caller, session: Session, limit: int = PAGE_SIZE) -> Any:
        return {"data": await newest(session, caller, limit)}

    @app.post("/items", response_model=ItemOut, status_code=201)
    async def create(new: ItemIn, caller: Caller, session: Session) -> Any:
        item = Item(
            owner_id=caller, title=new.title, description=new.description, created_at=datetime.now(UTC)
        )
        session.add(item)
        await session.commit()
        await session.refresh(item)
        return item

    @app.get("/cached/items/{item_id}", response_model=ItemOut)
    async def cached_item(item_id: uuid.UUID, caller: Caller, session: Session) -> Any:
        body = await cache.get(f"item:{item_id}")
        if body is None:
            found = ItemOut.model_validate(await find(session, item_id, caller))
            await cache.set(f"item:{item_id}", found.model_dump_json(), ex=_CACHE_SECONDS)
            return found
        return ItemOut.model_validate_json(body)

    @app.get("/cached/items", response_model=ItemsOut)
    async def cached_items(caller: Caller, session: Session) -> Any:
        body = await cache.get(f"items:{caller}")
        if body is None:
            found = ItemsOut.model_validate(
                {"data": [ItemOut.model_validate(row) for row in await newest(session, caller, PAGE_SIZE)]}
            )
            await cache.set(f"items:{caller}", found.model_dump_json(), ex=_CACHE_SECONDS)
            return found
        return ItemsOut.model_validate_json(body)

    app.add_middleware(
        CORSMiddleware, allow_origins=["https://app.example.com"], allow_methods=["*"], allow_headers=["*"]
    )
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.add_middleware(_Security)
    app.add_middleware(_Metrics)
    app.add_middleware(_RateLimit, client=cache)
    app.add_middleware(_Logging)
    return app
