"""The `Allow` header of a 405: every method of the path, whichever route the router met first."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from scalable_fastapi_system.web.problems import install_error_handlers

router = APIRouter(prefix="/things")


@router.post("")
@router.get("")
async def things() -> None: ...


@router.get("/{thing_id:uuid}")
async def read(thing_id: str) -> None: ...


@router.delete("/{thing_id:uuid}")
async def remove(thing_id: str) -> None: ...


@router.post("/bulk")
async def bulk() -> None: ...


@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/things", "GET, POST"),
        ("/things/01a20b3b-dadc-7172-aceb-43116b26ddf6", "DELETE, GET"),
        ("/things/bulk", "POST"),
    ],
)
async def test_a_405_lists_the_methods_of_every_route_on_the_path(root_path, path, allowed):
    app = FastAPI()
    app.include_router(router)
    install_error_handlers(app)
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        response = await client.patch(root_path + path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert response.json()["error_code"] == "METHOD_NOT_ALLOWED"
