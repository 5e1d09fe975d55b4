"""What OpenAPI says of a webhook's address is what is taken."""

from __future__ import annotations

import re

import pytest
from scalable_fastapi_system.jobs.webhooks import URL_PATTERN


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "https://hooks.example.com:8443/tasks/ada?key=a%20b&x=1",
        "https://192.0.2.7/hook",
        "https://xn--bcher-kva.example/hook",
    ],
)
def test_an_address_is_taken(url: str) -> None:
    assert re.search(URL_PATTERN, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://",
        "https:///hook",
        "https://user:pass@example.com/",
        "https://user@example.com/",
        "https://example.com@evil.example/",
        "https://exa mple.com/",
        "https://b\u00fccher.example/",
        "https://example.com/<hook>",
        "https://example.com/%zz",
        "https://example.com/#there",
        "https://-example.com/",
    ],
)
def test_what_is_no_address_or_carries_credentials_is_not(url: str) -> None:
    assert re.search(URL_PATTERN, url) is None
