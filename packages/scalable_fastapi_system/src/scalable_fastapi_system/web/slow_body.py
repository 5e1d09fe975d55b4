"""The body of a request as it comes: counted, and waited for only so long.

A client may pause for nine tenths of `API__SLOW_CLIENT_SECONDS` in all, so that a busy process too cuts it off within them; each
byte gives it back the time that it would take at `API__SLOW_CLIENT_BYTES_PER_SECOND`. So a body that stops coming ends within
that time, one that trickles in soon after, and a large one from a slow line goes through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

# Of the time within which a slow client is to be cut off; the rest is for the cutting off.
PATIENCE_SHARE = 0.9
CLIENT_CLOSED = 499  # nginx's number for a client that left before its answer


class BodyState(Protocol):
    """What the caller keeps about the body: whether all of it is here, whether the client has left before, and
    whether the connection has to end."""

    is_body_complete: bool
    has_left: bool
    must_close: bool


class ClientLeftError(HTTPException, ClientDisconnect):
    """The client has left before all of its body came.

    As Starlette has it, and as what FastAPI lets through: of any other exception it makes a body that cannot be parsed.
    """

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED, "The client left before its body was whole")


def bounded_body(
    receive: Receive,
    state: BodyState,
    *,
    limit_bytes: int,
    patience_seconds: float,
    bytes_per_second: float,
    note_waiting: Callable[[int], None],
) -> Receive:
    """`receive` that raises HTTPException: 413 for more than `limit_bytes`, 408 for a body that is too slow, 499 where it ends early.

    The bytes are counted as they come: a declared length may lie, and a chunked body declares none.

    note_waiting: called with 1 when the client is waited for and with -1 afterwards.
    """
    credit_seconds = patience_seconds
    received_bytes = 0

    async def bounded() -> Message:
        nonlocal credit_seconds, received_bytes
        if state.is_body_complete:
            # From here on it only tells of the client leaving, which may take long.
            return await receive()
        began = time.monotonic()
        note_waiting(1)
        try:
            async with asyncio.timeout(credit_seconds):
                message = await receive()
        except TimeoutError as error:
            state.must_close = True
            raise HTTPException(408, "The request's body did not arrive in time") from error
        finally:
            note_waiting(-1)
        if message["type"] == "http.request":
            size_bytes = len(message.get("body", b""))
            credit_seconds += began - time.monotonic() + size_bytes / bytes_per_second
            credit_seconds = min(patience_seconds, credit_seconds)
            received_bytes += size_bytes
            state.is_body_complete = not message.get("more_body", False)
            if received_bytes > limit_bytes:
                state.must_close = True
                raise HTTPException(413, f"The body is larger than the {limit_bytes} bytes allowed here")
        else:
            state.has_left = True
            raise ClientLeftError
        return message

    return bounded
