"""gzip for answers, as Starlette does it, without breaking downloads that are resumed.

A file's strong entity tag stands for its bytes as they are, and `Accept-Ranges` offers parts of these. Under both, a packed answer
that broke off would be resumed by unpacked bytes. So it has a weak tag, which no `If-Range` matches (RFC 9110 section 13.1.5) but any
`If-None-Match`, and offers no parts. Answers without parts keep their tag: clients send that back in `If-Match`, which a weak one
never fits.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware, GZipResponder
from starlette.types import Receive, Scope, Send


class Packing(GZipMiddleware):
    """Packs answers from `minimum_size` on. For requests that take gzip only: it asks no more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        packer = _Packer(
            self.app,
            self.minimum_size,
            compresslevel=self.compresslevel,
            thread_minimum_size=self.thread_minimum_size,
            exclude_content_types=self.exclude_content_types,
        )
        await packer(scope, receive, send)


class _Packer(GZipResponder):
    _has_begun = False

    async def apply_compression(self, body: bytes, *, more_body: bool) -> bytes:
        # Called before the head is sent, and for nothing that stays as it is.
        if not self._has_begun:
            self._has_begun = True
            headers = MutableHeaders(raw=self.initial_message["headers"])
            if headers.get("accept-ranges", "none") != "none":
                del headers["accept-ranges"]
                tag = headers.get("etag", "")
                if tag.startswith('"'):
                    headers["etag"] = f"W/{tag}"
        return await super().apply_compression(body, more_body=more_body)
