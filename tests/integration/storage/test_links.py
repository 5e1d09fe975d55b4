"""Signed links of storage that cannot sign its own URLs, as whoever holds one uses them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import FileStorage, FileVersion

pytestmark = pytest.mark.databases("sqlite")

DATA = random.Random(8).randbytes(1_300_000)  # three chunks of the database
KEY = "reports/2026/summary.csv"


class Shop:
    """An API and its storage."""

    def __init__(self, client: httpx.AsyncClient, storage: FileStorage) -> None:
        self.client = client
        self.storage = storage

    async def link(self, **options: int) -> str:
        return await self.storage.signed_url(KEY, **options)


async def content() -> AsyncIterator[bytes]:
    for start in range(0, len(DATA), 100_000):
        yield DATA[start : start + 100_000]


@pytest.fixture(params=["folder", "database"])
async def shop(
    request: pytest.FixtureRequest,
    database_section: dict[str, Any],
    tmp_path: Path,
    make_settings: Callable[..., Settings],
) -> AsyncIterator[Shop]:
    url = f"file://{tmp_path}/files" if request.param == "folder" else "database://"
    app = create_app(make_settings(database=database_section, storage={"url": url}))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api.test") as client,
    ):
        storage = app.state.resources.storage
        await storage.put(KEY, content(), content_type="text/csv")
        yield Shop(client, storage)


async def test_a_link_gives_the_file_to_whoever_holds_it(shop: Shop) -> None:
    answer = await shop.client.get(await shop.link(), headers={"Accept-Encoding": "gzip"})

    assert answer.status_code == 200
    assert answer.content == DATA
    assert answer.headers["content-length"] == str(len(DATA))
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-disposition"] == 'attachment; filename="summary.csv"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] in {"text/csv", "application/octet-stream"}


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=524287-524288", 524_287, 524_289),
        ("bytes=1000000-", 1_000_000, len(DATA)),
        ("bytes=-5", len(DATA) - 5, len(DATA)),
        ("bytes=0-99999999", 0, len(DATA)),
        ("bytes=-99999999", 0, len(DATA)),
    ],
)
async def test_a_range_gives_that_part(shop: Shop, wanted: str, start: int, stop: int) -> None:
    answer = await shop.client.get(await shop.link(), headers={"Range": wanted})

    assert answer.status_code == 206
    assert answer.content == DATA[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


# As readers of PDF ask for it.
MANY = "bytes=" + ", ".join(f"{start}-{start + 9_999}" for start in range(0, 1_000_000, 50_000))


@pytest.mark.parametrize("wanted", ["bytes=5-1", "bytes=0-1,5-6", MANY, "lines=1-2", "bytes=-", "bytes=a-b"])
async def test_what_is_no_range_gives_the_whole(shop: Shop, wanted: str) -> None:
    answer = await shop.client.get(await shop.link(), headers={"Range": wanted})
    assert (answer.status_code, len(answer.content)) == (200, len(DATA))


@pytest.mark.parametrize("wanted", [f"bytes={len(DATA)}-", "bytes=-0", "bytes=999999999-"])
async def test_a_range_beyond_the_end_is_refused(shop: Shop, wanted: str) -> None:
    answer = await shop.client.get(await shop.link(), headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


async def test_a_download_goes_on_only_while_the_file_is_the_same(shop: Shop) -> None:
    link = await shop.link()
    tag = (await shop.client.head(link)).headers["etag"]
    headers = {"Range": "bytes=10-19", "If-Range": tag}
    assert (await shop.client.get(link, headers=headers)).content == DATA[10:20]
    await shop.storage.delete(KEY)

    async def other() -> AsyncIterator[bytes]:
        yield b"another file, long enough"

    await shop.storage.put(KEY, other())
    answer = await shop.client.get(link, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"another file, long enough")


async def test_a_file_replaced_as_it_is_looked_up_is_not_sent_under_the_tag_of_the_old_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await shop.link()
    tag = (await shop.client.head(link)).headers["etag"]
    get = shop.storage.get

    async def other() -> AsyncIterator[bytes]:
        yield DATA[::-1]

    async def get_and_replace(key: str) -> FileVersion:
        monkeypatch.undo()
        found = await get(key)
        await shop.storage.put(KEY, other())
        return found

    monkeypatch.setattr(shop.storage, "get", get_and_replace)
    answer = await shop.client.get(link, headers={"Range": "bytes=0-5", "If-Range": tag})
    assert (answer.headers["etag"], answer.content) == (tag, b"")  # it is broken off
    answer = await shop.client.get(link, headers={"Range": "bytes=0-5", "If-Range": tag})
    assert (answer.status_code, answer.content) == (200, DATA[::-1])


async def test_a_download_of_a_file_with_another_servers_long_tag_begins_again(shop: Shop) -> None:
    headers = {"Range": "bytes=10-19", "If-Range": f'"{"x" * 300}"'}
    answer = await shop.client.get(await shop.link(), headers=headers)
    assert (answer.status_code, len(answer.content)) == (200, len(DATA))


async def test_head_tells_without_giving(shop: Shop) -> None:
    answer = await shop.client.head(await shop.link())
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(DATA))


async def test_a_link_that_was_changed_or_has_ended_opens_nothing(shop: Shop) -> None:
    link = await shop.link()
    path, _, query = link.partition("?")
    for changed in (
        f"/files/reports/2026/other.csv?{query}",
        f"{path}?{query}x",
        f"{path}?expires=99999999999&{query.partition('&')[2]}",
        f"/files/../secret?{query}",
        f"/files/%2e%2e/secret?{query}",
        f"{path}/?{query}",
    ):
        answer = await shop.client.get(changed)
        assert answer.status_code in {403, 404}, changed
        assert DATA[:20] not in answer.content
    assert (await shop.client.get(path)).status_code == 422
    ended = await shop.link(expires_seconds=1)
    await asyncio.sleep(1.1)
    assert (await shop.client.get(ended)).status_code == 403


async def test_a_good_link_to_a_file_that_is_gone_is_not_found(shop: Shop) -> None:
    link = await shop.link()
    await shop.storage.delete(KEY)
    assert (await shop.client.get(link)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_has_the_file_already_is_not_sent_it_again(shop: Shop, method: str) -> None:
    link = await shop.link()
    tag = (await shop.client.head(link)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', f'W/"other",W/{tag}', "*"):
        headers = {"If-None-Match": known, "Range": "bytes=0-3"}
        answer = await shop.client.request(method, link, headers=headers)
        assert (answer.status_code, answer.content) == (304, b""), known
        assert (answer.headers["etag"], answer.headers["cache-control"]) == (tag, "private")
        assert "content-range" not in answer.headers
    assert (await shop.client.request(method, f"{link}x", headers={"If-None-Match": "*"})).status_code == 403


async def test_who_has_another_file_gets_this_one(shop: Shop) -> None:
    headers = {"If-None-Match": '"other", W/"another"', "Range": "bytes=0-3"}
    answer = await shop.client.get(await shop.link(), headers=headers)
    assert (answer.status_code, answer.content) == (206, DATA[:4])


@pytest.mark.parametrize("wanted", ["bytes=0-3", f"bytes={len(DATA)}-"])
async def test_head_tells_of_the_whole_whatever_range_is_asked_for(shop: Shop, wanted: str) -> None:
    answer = await shop.client.head(await shop.link(), headers={"Range": wanted})
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(DATA))
    assert "content-range" not in answer.headers
