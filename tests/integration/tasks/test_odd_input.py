"""What a client sends to the tasks' endpoints and no database can keep: refused in words, never a 500, never altered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from scalable_fastapi_system.identity.repository import users
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.clock import utc_now

from tests.integration.domains.conftest import Owner, System, running

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb")


@pytest.fixture
async def system(
    database_section: dict[str, Any], make_settings: Callable[..., Settings]
) -> AsyncIterator[System]:
    settings = make_settings(database=database_section, rate_limit={"enabled": False})
    async with running(settings) as system:
        yield system


@pytest.fixture
async def owner(system: System) -> Owner:
    return await system.owner()


@pytest.mark.parametrize("path", ["/process-data", "/tasks/background"])
@pytest.mark.parametrize(
    "body",
    [
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"a": "\\u0000"}',
        '{"id": 123456789012345678901234567890}',
        '{"id": NaN}',
        '{"a": [1e999]}',
        '{"a":' * 300 + "1" + "}" * 300,
    ],
)
async def test_data_that_cannot_be_kept_as_they_are_are_refused(owner: Owner, path: str, body: str) -> None:
    answer = await owner.call("POST", path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert (await owner.call("GET", "/tasks")).json()["data"]["items"] == []


@pytest.mark.parametrize("name", ["kind", "queue"])
async def test_a_filter_with_a_zero_byte_is_refused(owner: Owner, name: str) -> None:
    assert (await owner.call("GET", f"/tasks?{name}=%00")).status_code == 422
    assert (await owner.call("GET", f"/tasks?{name}=x")).status_code == 200


async def test_a_webhook_for_a_kind_with_a_zero_byte_is_refused(owner: Owner) -> None:
    body = {"url": "https://example.com/hook", "kinds": ["a\x00"]}
    assert (await owner.call("POST", "/webhooks", json=body)).status_code == 422


async def test_an_administrators_names_with_a_zero_byte_are_refused(system: System, owner: Owner) -> None:
    async with system.resources.database.transaction() as session:
        await users.set_access(session, 1, now=utc_now(), role="admin")
    for path in ("workers/%00/drain", "schedules/%00/pause", "schedules/%00/resume"):
        assert (await owner.call("POST", f"/admin/jobs/{path}")).status_code == 422
