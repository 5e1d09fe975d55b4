"""What endpoints ask for: the resources of their application, and sessions.

`Transaction` is the session of a request that changes something: its commit happens after the endpoint has
returned and before the answer is sent, so a 2xx is only ever sent for what is stored.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from scalable_fastapi_system.infra.database.manager import ENDS_WHEN_CLOSED
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import load_settings

# In a request's state: the transaction that its effect and its stored answer share (see web/idempotency.py).
SHARED_TRANSACTION = "shared_transaction"
_NO_STATE: dict[str, Any] = {}


class SharedTransaction:
    """A transaction that somebody around the endpoint commits. `is_to_commit`: an endpoint left it as one commits."""

    __slots__ = ("has_failed", "is_to_commit", "session")

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.is_to_commit = False
        self.has_failed = False


_newest: weakref.ref[Resources] | None = None
_default: Resources | None = None


def set_newest_resources(resources: Resources) -> None:
    """Makes these the ones that `get_db()` uses where it is called without a request, as the guide does."""
    global _newest  # noqa: PLW0603 - the guide's `next(get_db())` names no application
    _newest = weakref.ref(resources)


def default_resources() -> Resources:
    """Those of the application made last in this process, else ones made from the settings."""
    global _default  # noqa: PLW0603 - see above
    found = _newest() if _newest is not None else None
    if found is not None:
        return found
    if _default is None:
        _default = Resources(load_settings())
    return _default


def get_resources(connection: HTTPConnection) -> Resources:
    """The resources of the application that this request reached; where that was not made by `create_app`, such as one that
    is mounted in it, `default_resources()`.
    """
    resources: Resources | None = getattr(connection.app.state, "resources", None)
    return resources if resources is not None else default_resources()


def get_db(connection: HTTPConnection = None) -> Iterator[Session]:  # type: ignore[assignment]
    """A synchronous session, closed at the end. As a dependency, or by hand as `next(get_db())`."""
    resources = get_resources(connection) if connection is not None else default_resources()
    session = resources.database.SessionLocal(**_ending(connection))
    try:
        yield session
    finally:
        session.close()


async def get_async_db(connection: HTTPConnection = None) -> AsyncIterator[AsyncSession]:  # type: ignore[assignment]
    """An asynchronous session, closed at the end; whoever writes commits."""
    resources = get_resources(connection) if connection is not None else default_resources()
    async with resources.database.AsyncSessionLocal(**_ending(connection)) as session:
        yield session


def _ending(connection: HTTPConnection | None) -> Mapping[str, Any]:
    # By hand, `next(get_db())` closes the session as soon as it has given it: nobody keeps the generator.
    return ENDS_WHEN_CLOSED if connection is not None else {}


@contextlib.asynccontextmanager
async def request_transaction(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """`Transaction` for an endpoint that begins and ends its transaction itself.

    Under an idempotency key it is part of the one in which the answer is stored, and is committed with that.
    """
    shared: SharedTransaction | None = connection.scope.get("state", _NO_STATE).get(SHARED_TRANSACTION)
    if shared is not None:
        try:
            yield shared.session
        except BaseException:
            shared.has_failed = True
            raise
        shared.is_to_commit = True
        return
    async with get_resources(connection).database.transaction() as session:
        yield session


async def get_transaction(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """A session whose work is committed before the answer is sent, or rolled back with the error."""
    is_shared = SHARED_TRANSACTION in connection.scope.get("state", _NO_STATE)
    database = get_resources(connection).database
    async with request_transaction(connection) if is_shared else database.transaction() as session:
        yield session


async def provide_resources(connection: HTTPConnection) -> Resources:
    """`get_resources` as a dependency: FastAPI sends one that is not `async` to a thread, at each request."""
    return get_resources(connection)


App = Annotated[Resources, Depends(provide_resources)]
# "function": FastAPI ends the dependency when the endpoint has returned, before the answer leaves.
Transaction = Annotated[AsyncSession, Depends(get_transaction, scope="function")]
