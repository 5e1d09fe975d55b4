"""The helpers that users' own tests are written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobContext, JobRegistry, call, enqueue_chain, job
from scalable_fastapi_system.jobs.testing import (
    InlineContext,
    assert_enqueued,
    enqueued,
    run_job,
    run_until_idle,
)
from scalable_fastapi_system.kit.errors import ValidationException

from tests.integration.jobs.harness import running_lab


async def test_a_handler_runs_inline(registry: JobRegistry) -> None:
    @job("inline", registry=registry)
    async def inline(ctx: JobContext, *, number: int) -> dict[str, Any]:
        await ctx.progress(0.5, "half")
        return {"number": number, "owner": ctx.owner_id}

    @job("plain", registry=registry)
    def plain(ctx: Any, *, number: int) -> int:
        ctx.progress(1.0)
        return number + 1

    context = InlineContext(owner_id=3)
    assert await run_job(inline, number=2, context=context) == {"number": 2, "owner": 3}
    assert context.reports == [(0.5, "half")]
    assert await run_job(plain, number=2) == 3
    with pytest.raises(ValidationException, match="number"):
        await run_job(inline, number="two")


@pytest.mark.databases("sqlite")
async def test_what_waits_can_be_asserted_and_run(
    make_settings: Callable[..., Settings], registry: JobRegistry, database_section: dict[str, Any]
) -> None:
    ran: list[int] = []

    @job("work", registry=registry)
    async def work(ctx: JobContext, *, number: int) -> None:
        ran.append(number)

    settings = make_settings(database=database_section)
    async with running_lab(settings, registry) as lab:
        async with lab.resources.database.transaction() as session:
            await enqueue_chain(session, [call(work, number=1), call(work, number=2)])
        await lab.client.enqueue_now(work, number=3)
        await lab.client.enqueue_now(work, number=4, delay_seconds=3600)
        assert len(await enqueued(lab.client, work)) == 4
        (found,) = await assert_enqueued(lab.client, "work", number=3)
        assert found.args == {"number": 3}
        with pytest.raises(AssertionError, match="0 jobs of 'work'"):
            await assert_enqueued(lab.client, "work", number=5)
        assert await run_until_idle(lab.client) == 3
        assert sorted(ran) == [1, 2, 3]
        assert [one.args for one in await enqueued(lab.client)] == [{"number": 4}]
