"""Files in a local folder, S3, Google Cloud Storage or Azure, through obstore.

A big file goes up in parts, one after the other, so one upload holds some 20 MiB whatever its size. An upload that
fails or is cancelled has its parts aborted; what the store is about to finish then, is waited for. Requests are tried
again for a few seconds, then the store counts as away (503). A folder is as durable as its file system: files are
renamed into place, not fsynced.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions as obstore_errors
from obstore.store import LocalStore, from_url

from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage.base import (
    DEFAULT_CONTENT_TYPE,
    FileMissingError,
    FileStorage,
    FileVersion,
    InvalidKeyError,
    Measured,
    Method,
    StorageError,
    StoredFile,
    check_key,
    check_lifetime,
)
from scalable_fastapi_system.infra.storage.signing import LinkSigner
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ConfigurationError, ServiceUnavailableException

_PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes for a part that is not the last
_MAX_PARTS = 10_000  # S3's limit
# One goes up while the next is gathered. And one at a time can be waited for before an abort, see _PartUpload.
_PARTS_AT_ONCE = 1
_READ_BYTES = 4 * 1024 * 1024  # short requests, so that a slow reader never meets the client's time limit
# What a cancelled caller waits for at most: one request, an upload's abort or the change under way. The bucket's lifecycle
# rule takes the parts that are left after it.
_ABORT_SECONDS = 10.0
_STAGED = re.compile(r"#\d+$")  # obstore's name for a local file that is being written
# How obstore tells that there is a file in the place of a folder, or a folder in the place of a file.
_ANOTHER_KIND = re.compile(rf"\(os error ({errno.ENOTDIR}|{errno.EISDIR})\)")
_NO_PLACE = "a folder cannot hold a file and a folder of one name"
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "http1_only",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_url",
        "proxy_ca_certificate",
        "proxy_excludes",
        "read_timeout",
        "root_certificate",
        "timeout",
    }
)
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_T = TypeVar("_T")


class ObjectStorage(FileStorage):
    """Files as objects of the store that STORAGE__URL names."""

    def __init__(self, settings: Settings) -> None:
        """Makes the folder of a `file://` URL; connects to nothing."""
        url = str(settings.storage.url)
        self._max_file_bytes = settings.storage.max_file_bytes
        self._folder: Path | None = None
        self._signer: LinkSigner | None = None
        if urlsplit(url).scheme == "file":
            self._folder = _folder_of(url)
            self._signer = LinkSigner(settings)
            self._store: Any = LocalStore(self._folder)
        else:
            self._store = _remote_store(url, settings.storage.options)

    async def put(
        self,
        key: str,
        content: AsyncIterable[bytes] | bytes,
        *,
        max_bytes: int | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> StoredFile:
        check_key(key)
        # Before anything is read: of a long file obstore would only say that it was aborted, and leave it.
        if self._folder is not None and await asyncio.to_thread(os.path.isdir, self._folder / key):
            raise InvalidKeyError(_NO_PLACE)
        limit = self._max_file_bytes if max_bytes is None else max_bytes
        part_bytes = max(_PART_BYTES, -(-limit // _MAX_PARTS))
        attributes = None if self._folder else {"Content-Type": content_type}
        measured = Measured(content, limit)
        async with contextlib.aclosing(measured.pieces(part_bytes)) as parts:
            first = await anext(parts, b"")
            second = await anext(parts, None)
            if second is None:
                with _translated(is_write=True):
                    await _settled(
                        obstore.put_async(self._store, key, first, attributes=attributes, use_multipart=False)
                    )
            else:
                upload = _PartUpload(self._store, key, attributes, part_bytes)
                await upload.run(_chained(first, second, parts))
        return StoredFile(
            key=key,
            size_bytes=measured.size_bytes,
            modified_at=utc_now(),
            content_type=DEFAULT_CONTENT_TYPE if self._folder else content_type,
            sha256=measured.sha256,
        )

    async def get(self, key: str) -> FileVersion:
        check_key(key)
        with _translated():
            found = await obstore.get_async(self._store, key, options={"head": True})
        file = _stored_file(found.meta, found.attributes.get("Content-Type", DEFAULT_CONTENT_TYPE))
        return FileVersion(file, partial(self._read, key, found.meta["e_tag"]))

    async def _read(self, key: str, e_tag: str | None, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        while start < stop:
            options = {"range": (start, min(start + _READ_BYTES, stop)), "if_match": e_tag}
            try:
                with _translated():
                    result = await obstore.get_async(self._store, key, options=options)  # type: ignore[arg-type]
                    piece = bytes(await result.bytes_async())
            except (FileMissingError, obstore_errors.PreconditionError) as error:
                raise StorageError(f"{key} changed while it was read") from error
            start += len(piece)
            yield piece

    async def delete(self, key: str) -> None:
        check_key(key)
        with contextlib.suppress(FileMissingError), _translated():
            await _settled(obstore.delete_async(self._store, key))

    async def list(self, prefix: str = "") -> AsyncGenerator[StoredFile, None]:
        if prefix:
            check_key(prefix)
        try:
            with _translated():
                async for batch in obstore.list(self._store, prefix=prefix or None):
                    for meta in batch:
                        yield _stored_file(meta, DEFAULT_CONTENT_TYPE)
        except FileMissingError:
            if self._folder is None:  # the bucket; in a folder there is a file in the place of this one
                raise

    async def signed_url(self, key: str, *, method: Method = "GET", expires_seconds: int = 900) -> str:
        if self._signer is not None:
            return self._signer.sign(key, method=method, expires_seconds=expires_seconds)
        check_key(key)
        check_lifetime(expires_seconds)
        with _translated():
            url: str = await obstore.sign_async(
                self._store, method, key, expires_in=timedelta(seconds=expires_seconds)
            )
        return url

    def accepts_link(self, key: str, *, expires: int, signature: str) -> bool:
        check_key(key)
        return self._signer is not None and self._signer.verify(key, expires=expires, signature=signature)

    async def delete_incomplete(self, *, older_than_seconds: float) -> int:
        if self._folder is None:
            return 0
        return await asyncio.to_thread(_delete_staged, self._folder, time.time() - older_than_seconds)


class _PartUpload:
    """One upload in parts that ends whole or is aborted.

    obstore aborts the parts when its source raises, but leaves them in the bucket when it is cancelled. So the
    source that it sees is a hand-over of ours, which can be made to raise whatever happens to the caller. Before
    that it gives an empty piece: obstore takes one only when the part under way has arrived, and a part that
    arrives after the abort would stay.
    """

    def __init__(self, store: Any, key: str, attributes: dict[str, str] | None, part_bytes: int) -> None:
        self._handover: asyncio.Queue[bytes | _AbandonedError | None] = asyncio.Queue(1)
        self._upload: asyncio.Future[Any] = asyncio.ensure_future(
            obstore.put_async(
                store,
                key,
                self._source(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            )
        )

    async def run(self, parts: AsyncIterable[bytes]) -> None:
        """Uploads the parts. On any error or cancellation it is aborted, nothing is kept and the error comes out.

        Once the store has been told to put the parts together the file may be kept all the same; what it does is waited
        for. To undo that would be to delete the key, which by then may hold what another has put.
        """
        try:
            async for part in parts:
                await self._hand_over(part)
            await self._hand_over(None)
            await asyncio.wait({self._upload})
            with _translated(is_write=True):
                self._upload.result()
        except BaseException:
            await self._abandon()
            raise

    async def _source(self) -> AsyncIterator[bytes]:
        while (item := await self._handover.get()) is not None:
            if isinstance(item, _AbandonedError):
                yield b""
                raise item
            yield item

    async def _hand_over(self, item: bytes | None) -> None:
        putting = asyncio.ensure_future(self._handover.put(item))
        try:
            await asyncio.wait({putting, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._upload.done():
            with _translated(is_write=True):
                self._upload.result()

    async def _abandon(self) -> None:
        if not self._upload.done():
            while not self._handover.empty():
                self._handover.get_nowait()
            self._handover.put_nowait(_AbandonedError())
            await asyncio.wait({self._upload}, timeout=_ABORT_SECONDS)
        if self._upload.done() and not self._upload.cancelled():
            self._upload.exception()  # seen: the error that counts is the one on its way up


class _AbandonedError(Exception):
    """Tells obstore that the content ends here and must not be kept."""


async def _settled(request: Awaitable[_T]) -> _T:
    """What a request that changes something gives. A caller that is cancelled leaves when it is answered.

    A store, and the thread that writes to a folder, goes on with what it has got though nobody waits any more. It would
    do so after what the caller, or who comes after it, has stored or deleted in its place.
    """
    answer = asyncio.ensure_future(request)
    try:
        await asyncio.wait({answer})
    except asyncio.CancelledError:
        await asyncio.wait({answer}, timeout=_ABORT_SECONDS)
        if answer.done():
            answer.exception()  # seen: what counts is that the caller is to end
        raise
    finally:
        answer.cancel()  # nothing where it is answered: else it would be tried again, behind the caller's back
    return answer.result()


async def _chained(first: bytes, second: bytes, rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for part in rest:
        yield part


@contextlib.contextmanager
def _translated(*, is_write: bool = False) -> Iterator[None]:
    """obstore's errors as ours."""
    try:
        yield
    except FileNotFoundError as error:
        if is_write:
            raise StorageError(
                "the place for the files (bucket, container, folder) does not exist"
            ) from error
        raise FileMissingError from error
    except obstore_errors.PreconditionError:
        raise
    except obstore_errors.GenericError as error:
        if _ANOTHER_KIND.search(str(error)):
            raise (InvalidKeyError(_NO_PLACE) if is_write else FileMissingError()) from error
        raise ServiceUnavailableException("The file storage cannot be reached at the moment") from error
    except (obstore_errors.BaseError, NotImplementedError) as error:
        raise StorageError(f"the file storage refused ({type(error).__name__})") from error


def _stored_file(meta: Any, content_type: str) -> StoredFile:
    return StoredFile(
        key=meta["path"],
        size_bytes=meta["size"],
        modified_at=meta["last_modified"],
        content_type=content_type,
    )


def _folder_of(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute() or path == Path("/"):
        raise ConfigurationError(f"STORAGE__URL: {url!r} is not of the form file:///folder")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"STORAGE__URL: the folder {path} cannot be made: {error.strerror}"
        ) from error
    return path


def _remote_store(url: str, options: dict[str, str]) -> Any:
    if not urlsplit(url).netloc:
        raise ConfigurationError("STORAGE__URL: the bucket is missing: use s3://bucket/prefix")
    # Requests are short (a part, a piece), so a minute means that the store hangs.
    client: dict[str, Any] = {"connect_timeout": "5s", "timeout": "60s"}
    client |= {name: value for name, value in options.items() if name in _CLIENT_OPTIONS}
    config: Any = {name: value for name, value in options.items() if name not in _CLIENT_OPTIONS}
    try:
        return from_url(url, config=config, client_options=client, retry_config=_RETRIES)  # type: ignore[call-overload]
    except (obstore_errors.BaseError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"STORAGE__URL or STORAGE__OPTIONS: {reason}") from error


def _delete_staged(folder: Path, before: float) -> int:
    deleted = 0
    for path in folder.rglob("*#*"):
        with contextlib.suppress(FileNotFoundError):  # its upload ended meanwhile
            if _STAGED.search(path.name) and path.is_file() and path.stat().st_mtime < before:
                path.unlink()
                deleted += 1
    return deleted
