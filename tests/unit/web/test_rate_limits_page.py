"""What docs/rate-limits.md shows is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.rate_limit import Policies
from scalable_fastapi_system.infra.rate_limit.bucket import LEASE_DIVISOR, MAX_LEASE, MIN_LEASE
from scalable_fastapi_system.infra.settings import RateLimitSettings, Settings

PAGE = (Path(__file__).parents[3] / "docs" / "rate-limits.md").read_text()


def shown_refusal() -> tuple[dict[str, str], dict[str, object]]:
    """Headers and body of the answer that the page shows."""
    head, body = PAGE.split("HTTP/1.1 429 Too Many Requests\n")[1].split("\n```")[0].split("\n\n")
    return dict(line.split(": ", 1) for line in head.splitlines()), json.loads(body)


async def test_a_request_too_many_is_answered_as_the_page_says(
    make_settings: Callable[..., Settings],
) -> None:
    headers, body = shown_refusal()
    app = create_app(make_settings())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        first = refused = await client.get("/")
        for _ in range(1000):  # not the hundred that are left: the window may end meanwhile
            refused = await client.get("/")
            if refused.status_code != first.status_code:
                break
    assert (first.status_code, refused.status_code) == (200, 429)
    assert first.headers["ratelimit-policy"] == headers["ratelimit-policy"] == '"anonymous";q=100;w=60'
    assert first.headers["ratelimit"].startswith('"anonymous";r=99;t=')
    assert refused.headers["ratelimit"].startswith('"anonymous";r=0;t=')
    assert list(refused.headers.keys()) == [name for name in headers if name != "date"]  # the server's
    assert {**refused.json(), "request_id": ""} == {**body, "request_id": ""}


async def test_preflights_are_not_counted_as_the_page_says(make_settings: Callable[..., Settings]) -> None:
    assert "CORS preflights" in PAGE
    app = create_app(make_settings(security={"cors_origins": ["https://app.example"]}))
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(5):
            answer = await client.options("/", headers=asked)
            assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)
        assert (await client.get("/")).headers["ratelimit"].startswith('"anonymous";r=99;t=')


def test_the_policies_and_their_defaults_are_the_settings() -> None:
    shown = re.findall(r"`RATE_LIMIT__([A-Z_]+)` \| `([^`]+)`", PAGE)
    fields = RateLimitSettings.model_fields
    names = [
        name for name in fields if name not in {"enabled", "policies", "routes", "store_timeout_seconds"}
    ]
    assert {name.lower(): rate for name, rate in shown} == {name: fields[name].default for name in names}


def test_the_settings_that_the_page_shows_make_sense() -> None:
    found = dict(re.findall(r"RATE_LIMIT__(POLICIES|ROUTES)='([^']+)'", PAGE))
    policies = Policies(
        RateLimitSettings(policies=json.loads(found["POLICIES"]), routes=json.loads(found["ROUTES"]))
    )
    own, shared = policies.of_route("POST", "/datasets", None), policies.of_route("GET", "/reports", None)
    assert (own and own.key, shared and shared.key) == ("route:30/60", "reports:5/60")


def test_the_figures_of_leases_are_the_code_s() -> None:
    assert (LEASE_DIVISOR, LEASE_DIVISOR * MIN_LEASE, MAX_LEASE) == (20, 80, 1000)
    assert "Quotas of 80 and more are leased" in PAGE
    assert "a twentieth of the quota (at most 1000)" in PAGE
