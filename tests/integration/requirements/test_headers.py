"""The security headers are on whatever the server answers, and `/docs` needs nothing that they refuse (row 10)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from hack.dev.ports import HOST
from tests.support.service_processes import API, ServiceProcess

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The API on a temporary database; five requests an hour to sign in, short patience with slow clients."""
    variables = {
        "API__MAX_BODY_BYTES": "2000",
        "API__SLOW_CLIENT_SECONDS": "1",
        "RATE_LIMIT__AUTH": "5/hour",
        "SECURITY__ALLOWED_HOSTS": "127.0.0.1",
        "SECURITY__CORS_ORIGINS": "https://app.example.com",
    }
    service = ServiceProcess("api", API, tmp_path_factory.mktemp("api"), variables)
    service.start()
    yield service
    service.kill()


JSON = b"Content-Type: application/json\r\n"
ASKED: dict[int | str, bytes] = {
    400: b"no http at all\r\n\r\n",
    "400 by the host": b"GET / HTTP/1.1\r\nHost: elsewhere.example.com\r\n\r\n",
    401: b"GET /users/me HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    404: b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    405: b"DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    408: b"POST /auth/register HTTP/1.1\r\nHost: 127.0.0.1\r\n" + JSON + b"Content-Length: 9\r\n\r\n{",
    413: b"POST /auth/register HTTP/1.1\r\nHost: 127.0.0.1\r\n" + JSON + b"Content-Length: 9999\r\n\r\n",
    422: b"POST /auth/register HTTP/1.1\r\nHost: 127.0.0.1\r\n" + JSON + b"Content-Length: 2\r\n\r\n{}",
    431: b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: " + b"x" * 100_000,
}


async def head_of(api: ServiceProcess, request: bytes) -> tuple[int, dict[str, list[str]]]:
    """Status and headers of the answer to these bytes."""
    reader, writer = await asyncio.open_connection(HOST, api.port)
    async with asyncio.timeout(60):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    writer.close()
    found: dict[str, list[str]] = {}
    for line in head[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return int(head[0].split()[1]), found


@pytest.mark.parametrize("case", ASKED, ids=str)
async def test_every_refusal_carries_the_headers_once(api: ServiceProcess, case: int | str) -> None:
    status, headers = await head_of(api, ASKED[case])
    assert status == int(str(case).split()[0])
    assert {name: headers.get(name) for name in HEADERS} == {name: [one] for name, one in HEADERS.items()}
    (policy,) = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["cache-control"] == ["no-store"]
    assert len(headers["x-request-id"]) == 1


async def test_a_refusal_of_the_rate_limit_and_a_preflight_carry_them_too(api: ServiceProcess) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        answers = [await http.post("/auth/login", data={"username": "a", "password": "b"}) for _ in range(6)]
        asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
        answers.append(await http.options("/auth/login", headers=asked))
    assert answers[-2].status_code == 429
    assert answers[-1].status_code == 200
    for answer in answers:
        assert {name: answer.headers.get_list(name) for name in HEADERS} == {
            name: [one] for name, one in HEADERS.items()
        }
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


class Page(HTMLParser):
    """What a page loads, and what in it would run or be styled in place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[tuple[str, str]] = []
        self.in_place: list[str] = []
        self._is_in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "spec-url"):
            if values.get(name):
                self.loaded.append((tag, str(values[name])))
        self.in_place += [name for name in values if name.startswith("on") or name == "style"]
        self._is_in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._is_in_script and data.strip():
            self.in_place.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._is_in_script = False


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_documentation_loads_only_what_its_policy_allows_from_this_server(
    api: ServiceProcess, path: str
) -> None:
    kinds = {"script": "text/javascript", "link": "text/css", "redoc": "application/json"}
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        answer = (await http.get(path)).raise_for_status()
        policy = dict(
            part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";")
        )
        assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == (
            "'none'",
            "'self'",
            "'self'",
        )
        page = Page(answer.text)
        assert page.in_place == []
        scripts = [url for tag, url in page.loaded if tag == "script"]
        assert scripts
        for tag, url in page.loaded:
            address = urljoin(str(answer.url), url)
            assert urlsplit(address).netloc == urlsplit(api.url).netloc, f"{url} is another server's"
            found = (await http.get(address)).raise_for_status()
            assert found.headers["content-type"].startswith(kinds[tag])
            assert found.headers["x-content-type-options"] == "nosniff"
        if path == "/docs":
            begin = (await http.get("/docs/start.js")).text
            (description,) = re.findall(r'url: "([^"]+)"', begin)
            assert (await http.get(description)).raise_for_status().json()["openapi"].startswith("3.")
