"""The real services as processes of the test's own, on the run's stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service_processes import ServiceProcess, started_services

PASSWORD = "a-long-passphrase"
StartService = Callable[..., ServiceProcess]


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Starts `api` or `worker` with these variables, without a rate limit."""
    with started_services(tmp_path, RATE_LIMIT__ENABLED="false") as start:
        yield start


async def sign_in(http: httpx.AsyncClient) -> None:
    """A new user, whose token `http` carries from then on."""
    user = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    (await http.post("/auth/register", json=user)).raise_for_status()
    answer = await http.post("/auth/login", data={"username": "ada", "password": PASSWORD})
    http.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
