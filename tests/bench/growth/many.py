"""Domains of five routes each, as many as are asked for: what a product of that size registers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, params
from pydantic import BaseModel, Field

ROUTES_OF_A_DOMAIN = 5
_MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


class ThingIn(BaseModel):
    """What a client sends."""

    name: str = Field(min_length=1, max_length=200)


class ThingOut(BaseModel):
    """A thing."""

    id: int
    name: str
    created_at: datetime


def path(domain: int) -> str:
    """One thing of this domain."""
    return f"/api/v1/things{domain}/7"


def router(domain: int, caller: params.Depends) -> APIRouter:
    """The routes of one domain. `caller`: the dependency that checks the token. They touch no store."""
    routes = APIRouter(prefix=f"/api/v1/things{domain}", tags=[f"things{domain}"], dependencies=[caller])

    @routes.get("", response_model=list[ThingOut])
    async def list_things() -> Any:
        return [_thing(1)]

    @routes.post("", response_model=ThingOut, status_code=201)
    async def create_thing(_new: ThingIn) -> Any:
        return _thing(1)

    @routes.get("/{thing_id}", response_model=ThingOut)
    async def read_thing(thing_id: int) -> Any:
        return _thing(thing_id)

    @routes.put("/{thing_id}", response_model=ThingOut)
    async def update_thing(thing_id: int, _new: ThingIn) -> Any:
        return _thing(thing_id)

    @routes.delete("/{thing_id}", status_code=204)
    async def delete_thing(thing_id: int) -> None:
        return None

    return routes


def _thing(thing_id: int) -> dict[str, Any]:
    return {"id": thing_id, "name": "a thing", "created_at": _MADE_AT}
