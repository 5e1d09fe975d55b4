"""What only a real S3 server can show: parts are aborted, links are signed, its absence is told."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import FileStorage, FileTooLargeError, StorageError, create_storage
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

from tests.integration.storage.s3_server import BUCKET, S3Server

MIB = 1024 * 1024


async def content(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MIB):
        yield b"x" * MIB


@pytest.fixture
def make_storage(s3_server: S3Server, make_settings: Callable[..., Settings]) -> Callable[..., FileStorage]:
    def make(url: str = f"s3://{BUCKET}", **options: str) -> FileStorage:
        storage: dict[str, Any] = {"url": url, "options": s3_server.options | options}
        settings = make_settings(storage=storage)
        return create_storage(settings, DatabaseManager(settings))

    return make


async def fetch(url: str, **request: Any) -> tuple[int, bytes, str]:
    def call() -> tuple[int, bytes, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, **request), timeout=10) as answer:
                return answer.status, answer.read(), answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read(), ""

    return await asyncio.to_thread(call)


async def test_an_upload_that_fails_has_its_parts_aborted(
    make_storage: Callable[..., FileStorage], s3_server: S3Server
) -> None:
    before = s3_server.files_on_disk()
    with pytest.raises(FileTooLargeError):
        await make_storage().put("aborted", content(40 * MIB), max_bytes=30 * MIB)

    assert s3_server.files_on_disk() == before


async def test_an_upload_that_is_cancelled_has_its_parts_aborted(
    make_storage: Callable[..., FileStorage], s3_server: S3Server
) -> None:
    before = s3_server.files_on_disk()

    async def stalling() -> AsyncIterator[bytes]:
        async for piece in content(30 * MIB):
            yield piece
        await asyncio.Event().wait()

    upload = asyncio.create_task(make_storage().put("cancelled", stalling()))
    deadline = time.monotonic() + 20
    while s3_server.files_on_disk() == before:  # until parts have arrived, which are to go again
        assert time.monotonic() < deadline, "no part arrived"
        await asyncio.sleep(0.05)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert s3_server.files_on_disk() == before


async def test_a_signed_link_gives_the_file_with_its_type(make_storage: Callable[..., FileStorage]) -> None:
    storage = make_storage(f"s3://{BUCKET}/linked")
    await storage.put("report.csv", content(7 * MIB), content_type="text/csv")

    status, body, content_type = await fetch(await storage.signed_url("report.csv", expires_seconds=60))
    assert (status, len(body), content_type) == (200, 7 * MIB, "text/csv")
    url = await storage.signed_url("report.csv", expires_seconds=60)
    assert (await fetch(url.replace("report.csv", "other.csv")))[0] == 403


async def test_a_signed_link_takes_an_upload(make_storage: Callable[..., FileStorage]) -> None:
    storage = make_storage(f"s3://{BUCKET}/linked")
    url = await storage.signed_url("uploaded", method="PUT", expires_seconds=60)

    assert (await fetch(url, data=b"from outside", method="PUT"))[0] == 200
    assert b"".join([piece async for piece in storage.open("uploaded")]) == b"from outside"


async def test_a_signed_link_ends(make_storage: Callable[..., FileStorage]) -> None:
    storage = make_storage(f"s3://{BUCKET}/linked")
    await storage.put("short", content(MIB))
    url = await storage.signed_url("short", expires_seconds=1)
    await asyncio.sleep(2.1)

    assert (await fetch(url))[0] == 403


async def test_prefixes_keep_installations_apart(make_storage: Callable[..., FileStorage]) -> None:
    one, two = make_storage(f"s3://{BUCKET}/one"), make_storage(f"s3://{BUCKET}/two/deep")
    await one.put("same", content(MIB))
    await two.put("same", content(2 * MIB))

    assert [file.size_bytes async for file in one.list()] == [MIB]
    assert (await two.stat("same")).size_bytes == 2 * MIB


async def test_a_store_that_is_away_is_unavailable_within_seconds(
    make_storage: Callable[..., FileStorage],
) -> None:
    storage = make_storage(endpoint="http://127.0.0.1:9")
    started = time.monotonic()

    with pytest.raises(ServiceUnavailableException):
        await storage.stat("a")
    with pytest.raises(ServiceUnavailableException):
        await storage.put("a", content(MIB))
    with pytest.raises(ServiceUnavailableException):
        await storage.put("a", content(20 * MIB))
    assert time.monotonic() - started < 30


async def test_a_bucket_that_is_not_there_is_a_matter_for_the_operator(
    make_storage: Callable[..., FileStorage],
) -> None:
    storage = make_storage("s3://nowhere")

    with pytest.raises(StorageError, match="does not exist"):
        await storage.put("a", content(MIB))
    with pytest.raises(StorageError, match="does not exist"):
        await storage.put("a", content(20 * MIB))


async def test_wrong_credentials_are_a_matter_for_the_operator(
    make_storage: Callable[..., FileStorage],
) -> None:
    storage = make_storage(secret_access_key="wrong")

    with pytest.raises(StorageError, match="refused"):
        await storage.put("a", content(MIB))
    with pytest.raises(StorageError, match="refused"):
        await storage.stat("a")
