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


class Relay:
    """Stands before the server, and hands it what has come when it is told to, be the client still there or not."""

    def __init__(self, server: S3Server) -> None:
        self._port = int(server.endpoint.rpartition(":")[2])
        self._ends: list[asyncio.StreamWriter] = []
        self._at_work: set[asyncio.Task[None]] = set()
        self.hands_over = asyncio.Event()
        self.has_some = asyncio.Event()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_work.add(asyncio.create_task(self._relay(reader, writer)))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends += [writer, to_server]
        self._at_work.add(asyncio.create_task(self._answer(from_server, writer)))
        while data := await reader.read(MIB):
            self.has_some.set()
            await self.hands_over.wait()
            to_server.write(data)

    async def _answer(self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await from_server.read(MIB):
            writer.write(data)

    async def close(self) -> None:
        self.hands_over.set()
        for end in self._ends:
            end.close()
        await asyncio.wait(self._at_work, timeout=10)


@pytest.fixture
async def relay(s3_server: S3Server) -> AsyncIterator[tuple[Relay, str]]:
    """One, and its address."""
    relay = Relay(s3_server)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    yield relay, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await relay.close()


async def small(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def read(storage: FileStorage, key: str) -> bytes:
    return b"".join([piece async for piece in storage.open(key)])


@pytest.mark.parametrize("change", ["put", "delete"])
async def test_a_change_that_was_cancelled_is_not_done_after_a_newer_one(
    make_storage: Callable[..., FileStorage], relay: tuple[Relay, str], change: str
) -> None:
    held, address = relay
    prefix = f"s3://{BUCKET}/late-{change}"
    storage, slow_storage = make_storage(prefix), make_storage(prefix, endpoint=address)
    await storage.put("a", small(b"first"))
    work = slow_storage.put("a", small(b"cancelled")) if change == "put" else slow_storage.delete("a")
    caller = asyncio.ensure_future(work)
    await asyncio.wait_for(held.has_some.wait(), 30)
    caller.cancel()
    asyncio.get_running_loop().call_later(0.3, held.hands_over.set)  # a store that is slow
    with pytest.raises(asyncio.CancelledError):
        await caller
    await storage.put("a", small(b"newer"))

    await asyncio.sleep(1)
    assert await read(storage, "a") == b"newer"


async def test_a_cancelled_caller_does_not_wait_for_ever_for_a_store_that_hangs(
    make_storage: Callable[..., FileStorage], relay: tuple[Relay, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.infra.storage.objects._ABORT_SECONDS", 0.2)
    held, address = relay
    caller = asyncio.ensure_future(make_storage(endpoint=address).put("hangs", small(b"1")))
    await asyncio.wait_for(held.has_some.wait(), 30)
    caller.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await caller


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
    assert await read(storage, "uploaded") == b"from outside"


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
