"""Job events as a `text/event-stream` (the HTML standard's server-sent events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson

from scalable_fastapi_system.jobs.events import JobEvent

# Proxies cut connections that say nothing, most of them after 30 or 60 s.
KEEP_ALIVE_SECONDS = 15.0
_RETRY_MS = 2000


async def stream_events(events: AsyncIterator[JobEvent]) -> AsyncIterator[bytes]:
    """The events as they come, and a comment now and then where none comes."""
    yield f"retry: {_RETRY_MS}\n\n".encode()
    iterator = aiter(events)
    upcoming: asyncio.Future[JobEvent] = asyncio.ensure_future(anext(iterator))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                event = upcoming.result()
            except StopAsyncIteration:
                return
            yield _encode(event)
            upcoming = asyncio.ensure_future(anext(iterator))
    finally:
        upcoming.cancel()
        await asyncio.wait({upcoming})
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _encode(event: JobEvent) -> bytes:
    data = orjson.dumps(
        {
            "id": event.job_id,
            "status": event.status,
            "attempt": event.attempt,
            "progress": event.progress,
        }
    )
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.type.encode(), data)
