"""The limits that routers set to forms hold, as with FastAPI alone."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, File, Form, UploadFile
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers


async def take(a: Annotated[str, Form()], files: Annotated[list[UploadFile], File()] = []) -> list[Any]:  # noqa: B006
    return [a, len(files)]


def declare(app: FastAPI) -> None:
    app.router.form_limits["max_part_size"] = 50
    app.post("/plain")(take)
    app.post("/own", form_limits={"max_fields": 1})(take)
    inner = APIRouter(prefix="/inner", form_limits={"max_fields": 2, "max_files": 1})
    inner.post("/two")(take)
    inner.post("/three", form_limits={"max_fields": 3})(take)
    outer = APIRouter(prefix="/outer", form_limits={"max_fields": 4, "max_part_size": 100})
    outer.include_router(inner)
    outer.post("/{four}")(take)
    app.include_router(inner)
    app.include_router(outer)
    loose = APIRouter(prefix="/loose")
    loose.post("/five")(take)
    app.include_router(loose, form_limits={"max_fields": 5})


@pytest.fixture
def platform() -> PlatformAPI:
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(
            inner, owner=owner, settings=Settings(_env_file=None), metrics=None
        )
    )
    install_error_handlers(app)
    declare(app)
    return app


async def _answers(app: FastAPI, path: str, root_path: str = "") -> list[int]:
    transport = httpx.ASGITransport(app, root_path=root_path)
    forms = [
        *({"data": dict.fromkeys("abcdef"[:count], "x"), "files": {"files": b"x"}} for count in range(1, 7)),
        {"data": {"a": "x"}, "files": [("files", b"x"), ("files", b"x")]},
        *({"data": {"a": "x" * size}, "files": {"files": b"x"}} for size in (40, 90, 200)),
    ]  # fmt: skip
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return [(await client.post(root_path + path, **form)).status_code for form in forms]  # type: ignore[arg-type]


@pytest.mark.parametrize("root_path", ["", "/root"])
@pytest.mark.parametrize(
    "path",
    [
        "/plain",
        "/own",
        "/inner/two",
        "/inner/three",
        "/outer/four",
        "/outer/inner/two",
        "/outer/inner/three",
        "/loose/five",
    ],
)
async def test_what_a_form_may_bring_is_what_fastapi_says(
    platform: PlatformAPI, path: str, root_path: str
) -> None:
    plain = FastAPI()
    declare(plain)
    found = await _answers(platform, path, root_path)
    assert found == await _answers(plain, path)
    assert 200 in found
    assert 400 in found
