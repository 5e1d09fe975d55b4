"""What every back end of the file storage promises, on each of them."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.infra.storage import (
    FileMissingError,
    FileStorage,
    FileTooLargeError,
    InvalidKeyError,
    StorageError,
)

MIB = 1024 * 1024
# More than two parts of an object store and than twenty chunks of the database, and no multiple of either.
LARGE = random.Random(5).randbytes(11 * MIB + 12_345)


class BrokenSourceError(Exception):
    pass


async def in_pieces(data: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def broken(data: bytes) -> AsyncIterator[bytes]:
    async for piece in in_pieces(data):
        yield piece
    raise BrokenSourceError


async def read(storage: FileStorage, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in storage.open(key, start=start, end=end)])


async def keys(storage: FileStorage, prefix: str = "") -> list[str]:
    return sorted([file.key async for file in storage.list(prefix)])


async def test_a_file_comes_back_as_it_went_in(storage: FileStorage) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    stored = await storage.put("datasets/a.csv", in_pieces(LARGE))

    assert stored.size_bytes == len(LARGE)
    assert stored.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert before < stored.modified_at < datetime.now(UTC) + timedelta(seconds=2)
    assert await read(storage, "datasets/a.csv") == LARGE
    found = await storage.stat("datasets/a.csv")
    assert (found.key, found.size_bytes) == ("datasets/a.csv", len(LARGE))
    assert found.sha256 in {None, stored.sha256}


@pytest.mark.parametrize("size", [0, 1, 512 * 1024, 512 * 1024 + 1, 5 * MIB, 10 * MIB])
async def test_sizes_around_the_back_ends_own_units_come_back_whole(storage: FileStorage, size: int) -> None:
    await storage.put("sized", in_pieces(LARGE[:size], 100_000))

    assert await read(storage, "sized") == LARGE[:size]
    assert (await storage.stat("sized")).size_bytes == size


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 1),
        (512 * 1024 - 1, 512 * 1024 + 1),
        (5 * MIB - 3, None),
        (7, 7),
        (11 * MIB, 99 * MIB),
        (99 * MIB, None),
    ],
)
async def test_a_range_is_the_slice_of_the_file(storage: FileStorage, start: int, end: int | None) -> None:
    await storage.put("ranged", in_pieces(LARGE))

    assert await read(storage, "ranged", start, end) == LARGE[start:end]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("content", [b"", b"short", LARGE], ids=["empty", "short", "large"])
async def test_content_may_be_bytes(
    storage: FileStorage, content: bytes, kind: Callable[[bytes], bytes]
) -> None:
    stored = await storage.put("a", kind(content))
    assert (stored.size_bytes, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert await read(storage, "a") == content
    with pytest.raises(FileTooLargeError):
        await storage.put("b", kind(b"12345"), max_bytes=4)


@pytest.mark.parametrize("content", ["text", [b"a list"], None])
async def test_content_is_nothing_else(storage: FileStorage, content: Any) -> None:
    with pytest.raises(TypeError, match="bytes or an async iterator"):
        await storage.put("a", content)
    assert await keys(storage) == []


async def test_a_second_put_takes_the_place_of_the_first(storage: FileStorage) -> None:
    await storage.put("a", in_pieces(LARGE))
    await storage.put("a", in_pieces(b"short"))

    assert await read(storage, "a") == b"short"
    assert await keys(storage) == ["a"]


async def test_the_content_type_is_kept_where_the_back_end_can(storage: FileStorage) -> None:
    stored = await storage.put("a", in_pieces(b"a,b\n"), content_type="text/csv")

    assert stored.content_type in {"text/csv", "application/octet-stream"}
    assert (await storage.stat("a")).content_type == stored.content_type


async def test_content_over_the_limit_leaves_nothing(storage: FileStorage) -> None:
    with pytest.raises(FileTooLargeError) as refused:
        await storage.put("big", in_pieces(LARGE), max_bytes=10 * MIB)

    assert refused.value.status_code == 413
    assert "10485760 bytes" in refused.value.message
    with pytest.raises(FileMissingError):
        await storage.stat("big")
    assert await keys(storage) == []
    assert await storage.delete_incomplete(older_than_seconds=-60) == 0


async def test_content_of_exactly_the_limit_is_taken(storage: FileStorage) -> None:
    assert (await storage.put("big", in_pieces(LARGE), max_bytes=len(LARGE))).size_bytes == len(LARGE)


@pytest.mark.parametrize("size", [0, 100, 3 * MIB, 11 * MIB])
async def test_a_source_that_breaks_off_leaves_what_was_there_before(storage: FileStorage, size: int) -> None:
    await storage.put("a", in_pieces(b"before"))

    with pytest.raises(BrokenSourceError):
        await storage.put("a", broken(LARGE[:size]))

    assert await read(storage, "a") == b"before"
    assert await storage.delete_incomplete(older_than_seconds=-60) == 0


async def test_a_cancelled_put_leaves_nothing(storage: FileStorage) -> None:
    arrived = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for piece in in_pieces(LARGE):
            yield piece
        arrived.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(storage.put("a", stalling()))
    await asyncio.wait_for(arrived.wait(), 30)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    await asyncio.sleep(0.5)  # the database's clean-up goes on after the cancelled caller
    assert await keys(storage) == []
    assert await storage.delete_incomplete(older_than_seconds=-60) == 0


async def test_a_put_that_was_cancelled_at_any_moment_does_not_land_over_a_newer_one(
    storage: FileStorage,
) -> None:
    for milliseconds in range(20):
        cancelled = asyncio.create_task(storage.put("a", in_pieces(LARGE[: 3 * MIB])))
        await asyncio.sleep(milliseconds / 1000)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await storage.put("a", in_pieces(b"newer"))
        await asyncio.sleep(0.05)
        assert await read(storage, "a") == b"newer"


async def test_nobody_sees_a_file_before_it_is_whole(storage: FileStorage) -> None:
    goes_on = asyncio.Event()

    async def paused() -> AsyncIterator[bytes]:
        async for piece in in_pieces(LARGE):
            yield piece
        await goes_on.wait()

    upload = asyncio.create_task(storage.put("a", paused()))
    await asyncio.sleep(0.5)
    with pytest.raises(FileMissingError):
        await storage.stat("a")
    assert await keys(storage) == []
    goes_on.set()
    await upload
    assert (await storage.stat("a")).size_bytes == len(LARGE)


async def test_an_upload_that_is_going_on_is_not_collected(storage: FileStorage) -> None:
    goes_on = asyncio.Event()

    async def paused() -> AsyncIterator[bytes]:
        yield LARGE
        await goes_on.wait()
        yield LARGE

    upload = asyncio.create_task(storage.put("a", paused()))
    await asyncio.sleep(0.3)
    assert await storage.delete_incomplete(older_than_seconds=60) == 0
    goes_on.set()
    await upload
    assert (await storage.stat("a")).size_bytes == 2 * len(LARGE)


async def test_of_writers_to_one_key_one_wins_whole(storage: FileStorage) -> None:
    contents = [bytes([number]) * (600_000 + number) for number in range(8)]

    await asyncio.gather(*(storage.put("contested", in_pieces(content)) for content in contents))

    assert await read(storage, "contested") in contents
    assert await keys(storage) == ["contested"]


async def test_a_deleted_file_is_gone_and_may_be_deleted_again(storage: FileStorage) -> None:
    await storage.put("a", in_pieces(LARGE))
    await storage.delete("a")
    await storage.delete("a")

    with pytest.raises(FileMissingError):
        await read(storage, "a")
    assert await storage.delete_incomplete(older_than_seconds=-60) == 0


async def test_a_file_replaced_while_it_is_read_is_an_error_and_never_a_mixture(storage: FileStorage) -> None:
    await storage.put("a", in_pieces(LARGE))
    reader = storage.open("a")
    first = await anext(reader)
    await storage.put("a", in_pieces(LARGE[::-1]))

    with pytest.raises(StorageError, match="changed while it was read"):
        await anext(reader)
    assert LARGE.startswith(first)


async def test_what_was_looked_up_is_what_is_read_and_not_what_took_its_place(storage: FileStorage) -> None:
    await storage.put("a", in_pieces(b"before"))
    found = await storage.get("a")
    assert [piece async for piece in found.read(1, 4)] == [b"efo"]
    await storage.put("a", in_pieces(b"behind"))

    assert found.file.size_bytes == 6
    with pytest.raises(StorageError, match="changed while it was read"):
        await anext(found.read(1, 4))


async def test_what_is_not_there_is_missing(storage: FileStorage) -> None:
    with pytest.raises(FileMissingError) as missing:
        await storage.stat("nothing/here")
    assert missing.value.status_code == 404
    with pytest.raises(FileMissingError):
        await anext(storage.open("nothing/here"))


async def test_a_list_is_of_one_folder_of_keys(storage: FileStorage) -> None:
    for key in ("datasets/a", "datasets/b/c", "datasets-old/a", "datasets0", "Datasets/a", "x"):
        await storage.put(key, in_pieces(b"1"))

    assert await keys(storage, "datasets") == ["datasets/a", "datasets/b/c"]
    assert len(await keys(storage)) == 6
    assert await keys(storage, "nothing") == []


async def test_a_long_list_has_every_file_once(storage: FileStorage) -> None:
    names = [f"many/{number:04}" for number in range(1100)]
    slots = asyncio.Semaphore(8)

    async def put(name: str) -> None:
        async with slots:
            await storage.put(name, in_pieces(b"1"))

    await asyncio.gather(*map(put, names))
    assert await keys(storage, "many") == names


@pytest.mark.parametrize("size", [1, len(LARGE)])
async def test_the_longest_key_holds_a_file(storage: FileStorage, size: int) -> None:
    key = f"{'x' * 54}/{'y' * 200}"
    await storage.put(key, in_pieces(LARGE[:size]))

    assert await read(storage, key) == LARGE[:size]
    assert await keys(storage) == [key]


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../b", ".hidden", "a//b", "a/", "", "a\nb", "é", "x" * 201]
)
async def test_a_key_that_is_none_is_refused_everywhere(storage: FileStorage, key: str) -> None:
    with pytest.raises(InvalidKeyError):
        await storage.put(key, in_pieces(b"1"))
    with pytest.raises(InvalidKeyError):
        await anext(storage.open(key))
    with pytest.raises(InvalidKeyError):
        await storage.stat(key)
    with pytest.raises(InvalidKeyError):
        await storage.delete(key)
    with pytest.raises(InvalidKeyError):
        await storage.signed_url(key)


async def test_a_file_is_downloaded_to_a_new_path_only(storage: FileStorage, tmp_path: Path) -> None:
    await storage.put("a", in_pieces(LARGE))
    target = tmp_path / "local.bin"

    assert await storage.download_to("a", target) == len(LARGE)
    assert target.read_bytes() == LARGE
    with pytest.raises(FileExistsError):
        await storage.download_to("a", target)
    with pytest.raises(FileMissingError):
        await storage.download_to("missing", tmp_path / "other")
    assert not (tmp_path / "other").exists()


async def test_every_loop_and_thread_sees_the_same_files(storage: FileStorage) -> None:
    await storage.put("here", in_pieces(LARGE))
    seen: list[bytes] = []

    async def elsewhere() -> None:
        seen.append(await read(storage, "here"))
        await storage.put("there", in_pieces(LARGE))

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert seen == [LARGE]
    assert await read(storage, "there") == LARGE


@pytest.mark.parametrize("seconds", [0, -1, 8 * 24 * 3600])
async def test_a_link_lives_a_second_to_a_week(storage: FileStorage, seconds: int) -> None:
    with pytest.raises(ValueError, match="lives 1 to"):
        await storage.signed_url("a", expires_seconds=seconds)
