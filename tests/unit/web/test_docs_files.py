"""The files of the documentation pages: from memory, packed for those who take that, and not sent again."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.settings import Settings

NAME = "swagger-ui-bundle.js"
URL = f"/docs/assets/{NAME}"


@pytest.fixture
async def http(make_settings: Callable[..., Settings]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(make_settings(rate_limit={"enabled": False}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
def script() -> bytes:
    package = find_spec("fastapi_offline")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "static" / NAME).read_bytes()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_file_is_the_same_the_second_time(
    http: httpx.AsyncClient, script: bytes, encoding: str
) -> None:
    first = await http.get(URL, headers={"Accept-Encoding": encoding})
    second = await http.get(URL, headers={"Accept-Encoding": encoding})
    for answer in (first, second):
        assert answer.status_code == 200
        assert answer.content == script  # httpx has unpacked it
        assert answer.headers.get("content-encoding", "identity") == encoding
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["cache-control"] == "public, max-age=3600"
        assert answer.headers["content-type"].startswith("text/javascript")
    own = {"x-request-id", "date"}
    assert [one for one in first.headers.multi_items() if one[0] not in own] == [
        one for one in second.headers.multi_items() if one[0] not in own
    ]
    assert len(second.headers.get_list("x-request-id")) == 1


async def test_what_is_packed_is_packed_once(
    http: httpx.AsyncClient, script: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    real = gzip.compress

    def count(body: bytes, level: int) -> bytes:
        packed.append(len(body))
        return real(body, level)

    monkeypatch.setattr(gzip, "compress", count)
    await asyncio.gather(*(http.get(URL, headers={"Accept-Encoding": "gzip"}) for _ in range(20)))
    assert packed == [len(script)]


async def test_a_file_that_the_client_has_is_a_304_and_each_encoding_has_its_own_tag(
    http: httpx.AsyncClient,
) -> None:
    tags = {}
    for encoding in ("identity", "gzip"):
        tag = tags[encoding] = (await http.get(URL, headers={"Accept-Encoding": encoding})).headers["etag"]
        again = await http.get(URL, headers={"Accept-Encoding": encoding, "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert tags["identity"] != tags["gzip"]
    other = await http.get(URL, headers={"Accept-Encoding": "identity", "If-None-Match": tags["gzip"]})
    assert other.status_code == 200


async def test_a_file_that_there_is_not_is_a_404(http: httpx.AsyncClient) -> None:
    for path in ("/docs/assets/nothing.js", "/docs/assets/../../pyproject.toml", "/docs/assets/"):
        assert (await http.get(path)).status_code == 404


async def test_a_file_is_only_read_also_when_it_is_in_memory(http: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await http.post(URL)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["error_code"] == "METHOD_NOT_ALLOWED"
        assert (await http.get(URL)).status_code == 200
    assert (await http.head(URL)).status_code == 200
