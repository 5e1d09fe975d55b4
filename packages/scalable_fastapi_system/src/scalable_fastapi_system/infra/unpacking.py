"""Bodies packed with gzip or deflate, unpacked in parts so small that whoever takes them can stop in time. No I/O.

A few KB may unpack to gigabytes, and what is packed twice to a thousand times that. So one encoding is understood, not
several, and no part is longer than `PART_BYTES`, whatever it came from.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

# What to ask a server for.
ACCEPT_ENCODING = "gzip, deflate"
PART_BYTES = 64 * 1024
_OTHER_NAMES = {"x-gzip": "gzip"}
_GZIP_BEGINS_WITH = 0x1F
_ZLIB_METHOD = 8  # the lower half of the first byte of RFC 1950; raw deflate does not begin so


class UnknownEncodingError(Exception):
    """The body is packed in another way than was asked for, or more than once."""


class DamagedBodyError(Exception):
    """The body is not what its encoding says, or it breaks off."""


class Unpacker:
    """Unpacks one body, piece by piece as it arrives."""

    def __init__(self, encodings: Iterable[str]) -> None:
        """encodings: the values of Content-Encoding. Raises UnknownEncodingError."""
        names = [name.strip().lower() for name in encodings]
        packed = [_OTHER_NAMES.get(name, name) for name in names if name not in {"", "identity"}]
        if packed not in ([], ["gzip"], ["deflate"]):
            raise UnknownEncodingError
        self._encoding = packed[0] if packed else None
        self._stream: zlib._Decompress | None = None
        self._is_over = False

    def parts(self, piece: bytes) -> Iterator[bytes]:
        """What this piece unpacks to. Raises DamagedBodyError."""
        if self._encoding is None:
            yield piece
            return
        while piece and not self._is_over:
            if self._stream is None or self._stream.eof:
                self._stream = self._next_stream(piece)
            if self._stream is None:
                return
            yield from _unpacked(self._stream, piece)
            piece = self._stream.unused_data

    def finish(self) -> None:
        """To be called after the last piece. Raises DamagedBodyError where more should have come."""
        if self._stream is not None and not self._stream.eof:
            raise DamagedBodyError("the body breaks off")

    def _next_stream(self, piece: bytes) -> zlib._Decompress | None:
        """For what begins here: the body, or a further member of gzip's. None where neither does."""
        is_first = self._stream is None
        if self._encoding == "gzip" and (is_first or piece[0] == _GZIP_BEGINS_WITH):
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        if self._encoding == "deflate" and is_first:
            # By the RFC it is in zlib's wrapper; some servers leave that off.
            is_wrapped = piece[0] & 0x0F == _ZLIB_METHOD
            return zlib.decompressobj(zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS)
        self._is_over = True  # padding or the like, which browsers pass over too
        return None


def _unpacked(stream: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    while not stream.eof:
        try:
            part = stream.decompress(piece, PART_BYTES)
        except zlib.error as error:
            raise DamagedBodyError(str(error)) from error
        if part:
            yield part
        piece = stream.unconsumed_tail
        if not piece and len(part) < PART_BYTES:  # a part that is full may leave something inside the stream
            return
