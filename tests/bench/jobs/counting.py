"""Round trips by a proxy between a contender and its stores: every burst that a client sends is counted as one.

A pipeline sent in one piece is one round trip, whatever is in it; that is what a network makes a caller wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class CountingProxy:
    """A TCP proxy on 127.0.0.1 that counts what its clients send."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.round_trips = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[CountingProxy]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            self._pump(reader, up_writer, is_counted=True), self._pump(up_reader, writer, is_counted=False)
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_counted: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.round_trips += is_counted
                writer.write(data)
                await writer.drain()
        writer.close()
