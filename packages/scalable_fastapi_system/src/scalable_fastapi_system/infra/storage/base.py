"""The interface that every back end keeps, its errors, and the rule for keys."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from scalable_fastapi_system.kit.errors import NotFoundException, PayloadTooLargeException

DEFAULT_CONTENT_TYPE = "application/octet-stream"
# 255: what every back end and an index of every database takes.
MAX_KEY_LENGTH = 255
# A file system takes names of 255, and more is written behind the name of a file on its way (by obstore a number, by
# a server of S3 over a folder some 30 letters).
MAX_SEGMENT_LENGTH = 200
# A segment never begins with a dot, so `.` and `..` and hidden files cannot be named.
_SEGMENT = rf"[A-Za-z0-9_=-][A-Za-z0-9._=-]{{0,{MAX_SEGMENT_LENGTH - 1}}}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*", re.ASCII)
# Signatures of S3 end after seven days.
MAX_SIGNED_URL_SECONDS = 7 * 24 * 3600
_SLICE_BYTES = 1 << 20

Method = Literal["GET", "PUT"]


class StorageError(Exception):
    """The storage is set up wrongly, or a file changed while it was read. Not for clients' eyes."""


class InvalidKeyError(ValueError):
    """The key is not one that storage takes: letters, digits, `.`, `_`, `=`, `-` in segments parted by `/`.

    A folder does not take one either that has a file where a folder is, or a folder where a file is.
    """


class FileMissingError(NotFoundException):
    """There is no file under this key (404)."""

    def __init__(self, message: str = "There is no such file") -> None:
        super().__init__(message)


class FileTooLargeError(PayloadTooLargeException):
    """The content went on after the bytes allowed (413). Nothing of it is kept."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The file is larger than the {max_bytes} bytes allowed")
        self.max_bytes = max_bytes


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is there.

    sha256: hexadecimal; always there after `put`, None from back ends that keep none (object stores, folders).
    """

    key: str
    size_bytes: int
    modified_at: datetime
    content_type: str = DEFAULT_CONTENT_TYPE
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FileVersion:
    """A file as one look-up found it.

    read: its bytes from one position up to and without another, both within the file. Raises StorageError where
    the file was replaced or deleted since: what it gives is of this version.
    """

    file: StoredFile
    read: Callable[[int, int], AsyncGenerator[bytes, None]]


class FileStorage(ABC):
    """Files under keys. Safe to use from any event loop and thread."""

    @abstractmethod
    async def put(
        self,
        key: str,
        content: AsyncIterable[bytes] | bytes,
        *,
        max_bytes: int | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> StoredFile:
        """Stores the content, in place of what was under the key, and returns when it is kept.

        Readers see the old file or the new one, never a part. Where `content` raises, its exception comes out
        and nothing is kept. Nor is it where the caller is cancelled while `content` gives; after that the file may
        be kept, or not, and it is decided when the cancellation comes out: an object store is given 10 s for that.
        Raises FileTooLargeError after `max_bytes` (the settings' limit where it is None).
        """

    @abstractmethod
    async def get(self, key: str) -> FileVersion:
        """What there is under the key, with the way to its bytes. Raises FileMissingError."""

    async def open(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end`, in pieces of at most a few MiB.

        A range beyond the end gives what there is of it. Raises FileMissingError at the first piece, and
        StorageError where the file is replaced or deleted before the last.
        """
        check_range(start, end)
        found = await self.get(key)
        size = found.file.size_bytes
        async with contextlib.aclosing(found.read(start, size if end is None else min(end, size))) as pieces:
            async for piece in pieces:
                yield piece

    async def stat(self, key: str) -> StoredFile:
        """What there is under the key. Raises FileMissingError."""
        return (await self.get(key)).file

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Deletes the file. One that is not there is deleted already. A cancellation comes out as that of `put` does."""

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncGenerator[StoredFile, None]:
        """Every file below this folder of keys (`datasets`, `datasets/2026`), in no promised order."""

    @abstractmethod
    async def signed_url(self, key: str, *, method: Method = "GET", expires_seconds: int = 900) -> str:
        """A URL that lets whoever holds it do this one thing without signing in, until it expires.

        An absolute URL from object stores; from a folder and the database a path of this API, for GET only.
        Raises ValueError for a method or a time that is not possible.
        """

    def accepts_link(self, key: str, *, expires: int, signature: str) -> bool:
        """Whether a link of `signed_url` to this API is good. False always where the store serves its own links.

        Raises InvalidKeyError.
        """
        check_key(key)
        return False

    @abstractmethod
    async def delete_incomplete(self, *, older_than_seconds: float) -> int:
        """Deletes what uploads that never ended left behind; how many there were.

        0 always from object stores, which clean up by a lifecycle rule of the bucket.
        """

    async def download_to(
        self, key: str, path: Path, *, on_bytes: Callable[[int], None] | None = None
    ) -> int:
        """Writes the file to a new local file and returns its size in bytes; `on_bytes` hears how many are there.

        Raises FileExistsError where the path is taken. On an error nothing is left at the path.
        """
        size = 0
        target = await asyncio.to_thread(path.open, "xb", buffering=0)
        try:
            async with contextlib.aclosing(self.open(key)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(_write_all, target.fileno(), piece)
                    size += len(piece)
                    if on_bytes is not None:
                        on_bytes(size)
        except BaseException:
            _forget(target, path)
            raise
        target.close()
        return size


def check_key(key: str) -> str:
    """The key, if it is one. Raises InvalidKeyError."""
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise InvalidKeyError(
            f"{key[:80]!r} is not a storage key: up to {MAX_KEY_LENGTH} letters, digits, '.', '_', '=', '-', "
            f"in segments of at most {MAX_SEGMENT_LENGTH} that do not begin with a dot, parted by '/'"
        )
    return key


def check_range(start: int, end: int | None) -> None:
    """Raises ValueError for a range that counts from before the beginning or ends before it starts."""
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"bytes {start} to {end} are not a range")


def check_lifetime(expires_seconds: int) -> None:
    """Raises ValueError for a signed URL's life that is not between a second and a week."""
    if not 1 <= expires_seconds <= MAX_SIGNED_URL_SECONDS:
        raise ValueError(f"a signed URL lives 1 to {MAX_SIGNED_URL_SECONDS} seconds, not {expires_seconds}")


async def _in_slices(content: memoryview) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), _SLICE_BYTES):
        yield bytes(content[start : start + _SLICE_BYTES])


class Measured:
    """Content as it passes: counted, hashed, and stopped at its limit."""

    def __init__(self, content: AsyncIterable[bytes] | bytes, max_bytes: int) -> None:
        """Raises TypeError for what is neither."""
        if isinstance(content, bytes | bytearray | memoryview):
            content = _in_slices(memoryview(content).cast("B"))
        elif not isinstance(content, AsyncIterable):
            raise TypeError(
                f"content is bytes or an async iterator of bytes, and not {type(content).__name__}"
            )
        self._content = content
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def pieces(self, piece_bytes: int) -> AsyncGenerator[bytes, None]:
        """The content in pieces of exactly this size, the last one shorter; none at all where it is empty.

        Raises FileTooLargeError as soon as more has come than is allowed.
        """
        gathered = bytearray()
        async for part in self._content:
            self.size_bytes += len(part)
            if self.size_bytes > self._max_bytes:
                raise FileTooLargeError(self._max_bytes)
            self._hash.update(part)
            gathered += part
            while len(gathered) >= piece_bytes:
                yield bytes(memoryview(gathered)[:piece_bytes])
                del gathered[:piece_bytes]
        if gathered:
            yield bytes(gathered)


def _forget(target: io.FileIO, path: Path) -> None:
    target.close()
    path.unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
