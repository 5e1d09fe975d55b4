"""The body of a request as its idempotency key sees it: hashed while the endpoint reads it, never kept.

The fingerprint is over the path, the query, the media type and the bytes. A form's boundary, which clients make up for
each try, does not count: an upload is the same when its parts are, their headers and the file's bytes included.
"""

from __future__ import annotations

import hashlib

from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive, Scope

_BOUNDARY_STANDS_HERE = b"--\x00boundary\x00"


class RequestBody:
    """Stands for `receive`. `digest()` is right once the body has been read to its end, by whomever."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = False
        self._hash = hashlib.sha256()
        self._rest = b""
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        media_type, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"") if media_type == b"multipart/form-data" else b""
        self._needle = b"--" + boundary if boundary else b""
        for part in (scope["path"].encode(), scope["query_string"], media_type):
            self._hash.update(len(part).to_bytes(4, "big") + part)

    async def receive(self) -> Message:
        """The next message of the server."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._add(message.get("body", b""))
            if not message.get("more_body", False):
                self._is_complete = True
                self._hash.update(self._rest)
                self._rest = b""
        return message

    async def drain(self) -> None:
        """Reads what nobody has read. `receive` raises where the client leaves before the end (`slow_body.py`)."""
        while not self._is_complete:
            await self.receive()

    def digest(self) -> bytes:
        """32 bytes that stand for the request."""
        return self._hash.digest()

    def _add(self, data: bytes) -> None:
        if not self._needle:
            self._hash.update(data)
            return
        *whole, last = (self._rest + data).split(self._needle)
        for piece in whole:
            self._hash.update(piece + _BOUNDARY_STANDS_HERE)
        # the end may be the beginning of a boundary
        keep = min(len(last), len(self._needle) - 1)
        self._hash.update(last[: len(last) - keep])
        self._rest = last[len(last) - keep :]
