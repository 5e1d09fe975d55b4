"""Answers that are streams, against their description: a task that is followed, a file and the parts of one.

The campaigns of test_whole_api.py ask these operations too, but only a link that was signed gets past the 403.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import create_storage
from schemathesis import openapi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    status_code_conformance,
)

from tests.integration.api_contract.campaign import PASSWORD, Api, serve

KEY = "reports/summary.csv"
CONTENT = b"name,count\nada,1\ngrace,2\n"
RANGES = [
    (None, 200, CONTENT),
    ("bytes=0-3", 206, CONTENT[:4]),
    ("bytes=-2", 206, CONTENT[-2:]),
    ("bytes=5-", 206, CONTENT[5:]),
    ("bytes=9999-", 416, None),
    ("rows=1-2", 200, CONTENT),
]


@pytest.fixture
def api(tmp_path: Path, database_environment: dict[str, str], redis_url: str) -> Iterator[Api]:
    with serve(tmp_path, database=database_environment, redis_url=redis_url) as running:
        yield running


def validate(api: Api, path: str, answer: httpx.Response, **parameters: str) -> None:
    """Fails where the answer is not one that OpenAPI describes."""
    operation: Any = openapi.from_url(f"{api.url}/openapi.json")[path]["GET"]
    checks = [status_code_conformance, content_type_conformance, response_headers_conformance]
    operation.Case(path_parameters=parameters).validate_response(answer, checks=checks)


def test_a_followed_task_streams_its_events_to_its_end(api: Api) -> None:
    api.register("ada")
    credentials = {"username": "ada", "password": PASSWORD}
    with httpx.Client(base_url=api.url, timeout=60) as client:
        token = client.post("/auth/login", json=credentials).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        task_id = client.post("/tasks/background", json={"numbers": [4, 6]}).json()["task_id"]
        answer = client.get(f"/tasks/{task_id}/events")
    validate(api, "/tasks/{task_id}/events", answer, task_id=task_id)
    assert answer.status_code == 200
    events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert '"status":"succeeded"' in events[-1]


async def test_a_file_and_its_parts_are_as_described(
    api: Api, database_section: dict[str, Any], make_settings: Callable[..., Settings]
) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT

    database = DatabaseManager(settings := make_settings(database=database_section))
    storage = create_storage(settings, database)
    await storage.put(KEY, content(), content_type="text/csv")
    link = await storage.signed_url(KEY)
    await database.stop()
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
        for wanted, status, expected in RANGES:
            answer = await client.get(link, headers={} if wanted is None else {"Range": wanted})
            assert answer.status_code == status, wanted
            assert expected is None or answer.content == expected, wanted
            validate(api, "/files/{key}", answer, key=KEY)
