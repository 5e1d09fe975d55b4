"""Keys, limits, settings and links of the file storage; the folder's back end without a network."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import (
    FileMissingError,
    FileStorage,
    FileTooLargeError,
    InvalidKeyError,
    create_storage,
)
from scalable_fastapi_system.infra.storage.base import Measured, check_key
from scalable_fastapi_system.infra.storage.signing import LinkSigner
from scalable_fastapi_system.infra.storage.tables import stored_file_chunks, stored_files
from scalable_fastapi_system.kit.errors import ConfigurationError
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateTable


async def content(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
def make_storage(make_settings: Callable[..., Settings]) -> Callable[..., FileStorage]:
    def make(url: str, **options: str) -> FileStorage:
        storage: dict[str, Any] = {"url": url, "options": options}
        settings = make_settings(storage=storage)
        return create_storage(settings, DatabaseManager(settings))

    return make


# Both limits, of a segment and of the whole.
LONGEST = f"{'x' * 54}/{'y' * 200}"


@pytest.mark.parametrize("key", ["a", "datasets/0190-x/file_1.csv", "a=b/c-d", LONGEST])
def test_ordinary_keys_are_keys(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "a/.b",
        "a b",
        "a\\b",
        "a\x00",
        "a%2e",
        "ä",
        f"z{LONGEST}",
        "x" * 201,
        f"a/{'x' * 201}",
    ],
)
def test_keys_that_could_lead_elsewhere_are_refused(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_key(key)


async def test_content_is_cut_into_equal_pieces_whatever_it_comes_in() -> None:
    measured = Measured(content(b"ab", b"", b"cdefghij", b"k"), max_bytes=11)

    assert [piece async for piece in measured.pieces(4)] == [b"abcd", b"efgh", b"ijk"]
    assert measured.size_bytes == 11


async def test_the_byte_after_the_limit_is_refused_as_it_comes() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 10

    with pytest.raises(FileTooLargeError):
        _ = [piece async for piece in Measured(endless(), max_bytes=100).pieces(1000)]
    assert taken == 11


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/folder", "unknown storage 'ftp'"),
        ("nonsense", "unknown storage"),
        ("file://host/folder", "file:///folder"),
        ("file://folder", "file:///folder"),
        ("file:///", "file:///folder"),
        ("file:///proc/nothing/here", "cannot be made"),
        ("s3://", "bucket is missing"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_to_set(
    make_storage: Callable[..., FileStorage], url: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        make_storage(url)
    assert "STORAGE__URL" in str(refused.value)


def test_an_option_that_the_store_does_not_know_is_refused(make_storage: Callable[..., FileStorage]) -> None:
    with pytest.raises(ConfigurationError, match="STORAGE__OPTIONS"):
        make_storage("s3://bucket/prefix", bucket_colour="blue")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/prefix", {"region": "eu-west-1", "allow_http": "true", "timeout": "20s"}),
        ("gs://bucket/prefix", {}),
        ("az://container/prefix", {"account_name": "someone", "account_key": "c2VjcmV0"}),
    ],
)
def test_every_object_store_is_made_from_its_url(
    make_storage: Callable[..., FileStorage], url: str, options: dict[str, str]
) -> None:
    assert isinstance(make_storage(url, **options), FileStorage)


def test_the_object_stores_library_is_loaded_when_it_is_chosen() -> None:
    code = "import sys, scalable_fastapi_system.infra.resources;sys.exit('obstore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_folder_is_its_owners_alone_and_holds_the_file_as_it_is(
    make_storage: Callable[..., FileStorage], tmp_path: Path
) -> None:
    storage = make_storage(f"file://{tmp_path}/a%20folder/files")
    await storage.put("datasets/x.csv", content(b"a,b\n"))

    folder = tmp_path / "a folder" / "files"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "datasets" / "x.csv").read_bytes() == b"a,b\n"


async def test_a_link_out_of_the_folder_cannot_be_named(
    make_storage: Callable[..., FileStorage], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s")
    storage = make_storage(f"file://{tmp_path}/files")

    with pytest.raises(InvalidKeyError):
        await anext(storage.open("../secret"))


@pytest.mark.parametrize("size", [1, 11 * 1024 * 1024])
async def test_a_name_in_a_folder_is_a_files_or_a_folders_and_the_other_is_refused(
    make_storage: Callable[..., FileStorage], tmp_path: Path, size: int
) -> None:
    storage = make_storage(f"file://{tmp_path}/files")
    await storage.put("file", content(b"1"))
    await storage.put("folder/file", content(b"1"))

    for key in ("folder", "file/x", "file/x/y"):
        with pytest.raises(InvalidKeyError, match="a folder cannot hold"):
            await storage.put(key, content(b"x" * size))
    assert await storage.delete_incomplete(older_than_seconds=-60) == 0
    assert sorted([file.key async for file in storage.list()]) == ["file", "folder/file"]


async def test_below_a_file_of_a_folder_and_in_place_of_a_folder_there_is_nothing(
    make_storage: Callable[..., FileStorage], tmp_path: Path
) -> None:
    storage = make_storage(f"file://{tmp_path}/files")
    await storage.put("file", content(b"1"))
    await storage.put("folder/file", content(b"1"))

    for key in ("folder", "file/x", "file/x/y"):
        with pytest.raises(FileMissingError):
            await storage.stat(key)
        with pytest.raises(FileMissingError):
            await anext(storage.open(key))
        await storage.delete(key)
    assert [file.key async for file in storage.list("file/x")] == []
    assert sorted([file.key async for file in storage.list()]) == ["file", "folder/file"]


async def test_only_old_remains_of_an_upload_are_deleted_from_a_folder(
    make_storage: Callable[..., FileStorage], tmp_path: Path
) -> None:
    storage = make_storage(f"file://{tmp_path}/files")
    await storage.put("datasets/kept", content(b"1"))
    folder = tmp_path / "files" / "datasets"
    for name, age_seconds in (("old#1", 7200), ("new#2", 60)):
        (folder / name).write_text("part")
        moment = time.time() - age_seconds
        os.utime(folder / name, (moment, moment))

    assert await storage.delete_incomplete(older_than_seconds=3600) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "new#2"]


class FixedClock:
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment


def parts(link: str) -> tuple[str, int, str]:
    """Key, end and signature in a link."""
    split = urlsplit(link)
    query = parse_qs(split.query)
    return split.path.removeprefix("/files/"), int(query["expires"][0]), query["signature"][0]


def test_a_link_is_good_for_its_key_and_until_its_end(make_settings: Callable[..., Settings]) -> None:
    clock = FixedClock()
    signer = LinkSigner(make_settings(), clock)
    key, expires, signature = parts(signer.sign("datasets/a.csv", method="GET", expires_seconds=60))

    assert (key, expires) == ("datasets/a.csv", int(clock.moment.timestamp()) + 60)
    assert signer.verify(key, expires=expires, signature=signature)
    assert not signer.verify("datasets/b.csv", expires=expires, signature=signature)
    assert not signer.verify(key, expires=expires + 1, signature=signature)
    assert not signer.verify(key, expires=expires, signature=signature[:-1])
    assert not signer.verify(key, expires=expires, signature="é")
    clock.moment += timedelta(seconds=60)
    assert not signer.verify(key, expires=expires, signature=signature)


def test_a_link_outlives_the_change_of_the_secret_key(make_settings: Callable[..., Settings]) -> None:
    old, new = "o" * 40, "n" * 40
    link = LinkSigner(make_settings(security={"secret_key": old})).sign("a", method="GET", expires_seconds=60)
    key, expires, signature = parts(link)

    changed = LinkSigner(make_settings(security={"secret_key": new, "previous_secret_keys": [old]}))
    assert changed.verify(key, expires=expires, signature=signature)
    dropped = LinkSigner(make_settings(security={"secret_key": new}))
    assert not dropped.verify(key, expires=expires, signature=signature)


def test_a_link_to_write_is_not_made_here(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ValueError, match="GET only"):
        LinkSigner(make_settings()).sign("a", method="PUT", expires_seconds=60)


def test_the_tables_suit_every_database() -> None:
    on_mysql = str(CreateTable(stored_file_chunks).compile(dialect=mysql.dialect()))
    assert "MEDIUMBLOB" in on_mysql
    assert "COLLATE utf8mb4_bin" in str(CreateTable(stored_files).compile(dialect=mysql.dialect()))
    assert 'COLLATE "C"' in str(CreateTable(stored_files).compile(dialect=postgresql.dialect()))
