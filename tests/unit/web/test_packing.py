"""gzip: a download that is resumed gives the bytes that it began with."""

import httpx
import pytest
from fastapi import Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI

TEXT = b"".join(b"line %d\n" % number for number in range(20_000))


@pytest.fixture
async def client(tmp_path):
    settings = Settings(_env_file=None)
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(inner, owner=owner, settings=settings, metrics=None)
    )
    (tmp_path / "a.txt").write_bytes(TEXT)
    app.mount("/static", StaticFiles(directory=tmp_path))

    @app.get("/file")
    def file():
        return FileResponse(tmp_path / "a.txt")

    @app.get("/packed-before")
    def packed_before():
        return FileResponse(tmp_path / "a.txt", headers={"content-encoding": "br"})

    @app.get("/versioned")
    def versioned():
        return Response(TEXT, media_type="text/plain", headers={"etag": '"7"'})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


@pytest.mark.parametrize("path", ["/file", "/static/a.txt"])
async def test_a_packed_file_offers_no_parts_and_is_not_resumed_by_unpacked_bytes(client, path):
    packed = await client.get(path)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == TEXT
    assert packed.headers["etag"].startswith('W/"')
    assert "accept-ranges" not in packed.headers
    resuming = {"Range": "bytes=100-", "If-Range": packed.headers["etag"]}
    assert (await client.get(path, headers=resuming)).status_code == 200


@pytest.mark.parametrize("path", ["/file", "/static/a.txt"])
async def test_a_file_as_it_is_may_be_resumed(client, path):
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})
    assert plain.headers["accept-ranges"] == "bytes"
    assert plain.headers["etag"].startswith('"')
    resuming = {"Range": "bytes=100-", "If-Range": plain.headers["etag"]}
    for accepted in ("identity", "gzip"):
        rest = await client.get(path, headers={**resuming, "Accept-Encoding": accepted})
        assert (rest.status_code, rest.content) == (206, TEXT[100:])


async def test_who_has_the_packed_file_is_told_so(client):
    packed = await client.get("/static/a.txt")
    again = await client.get("/static/a.txt", headers={"If-None-Match": packed.headers["etag"]})
    assert again.status_code == 304


async def test_what_offers_no_parts_or_was_packed_before_keeps_its_strong_tag(client):
    versioned = await client.get("/versioned")
    assert (versioned.headers["content-encoding"], versioned.headers["etag"]) == ("gzip", '"7"')
    async with client.stream("GET", "/packed-before") as before:
        assert before.headers["etag"].startswith('"')
        assert before.headers["accept-ranges"] == "bytes"
