"""Work on items in the background."""

from __future__ import annotations

from uuid import UUID

from scalable_fastapi_system.jobs import JobContext, job

from tests.bench.product.items import repository


@job("items.measure", is_public=True)
async def measure(ctx: JobContext, *, item_id: UUID) -> int:
    """How many characters an item has, 0 where the job's owner has no such item."""
    if ctx.owner_id is None:
        return 0
    row = await repository.find(ctx.resources.database, item_id=item_id, owner_id=ctx.owner_id)
    return 0 if row is None else len(row["title"]) + len(row["description"])
