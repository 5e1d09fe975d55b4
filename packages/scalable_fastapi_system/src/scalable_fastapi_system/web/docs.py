"""`/docs` and `/redoc` from files of this installation: they work without a network and under a strict policy."""

from __future__ import annotations

import asyncio
import gzip
import html
from importlib.util import find_spec
from pathlib import Path

import orjson
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from scalable_fastapi_system.web.conditional import has_current

# Swagger UI and ReDoc put style elements into the page; scripts come from files only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_READING = ("GET", "HEAD")
_CACHE_FILES = "public, max-age=3600"
_GZIP_LEVEL = 6  # 9 takes a third longer for a third of a percent

_SWAGGER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} - Swagger UI</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{root}/docs/assets/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="{root}/docs/assets/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script></body></html>
"""
_START = """window.ui = SwaggerUIBundle({{
  url: {url}, dom_id: "#swagger-ui", deepLinking: true, persistAuthorization: false,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset], layout: "BaseLayout"
}});
"""
_REDOC = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} - ReDoc</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body><redoc spec-url="{root}{openapi}"></redoc>
<script src="{root}/docs/assets/redoc.standalone.js"></script></body></html>
"""


def install_docs(app: FastAPI) -> None:
    """Adds the documentation pages. Raises RuntimeError where the package with their files is not installed."""
    package = find_spec("fastapi_offline")  # located, not imported: its code is not needed
    if package is None or package.origin is None:
        raise RuntimeError(
            "fastapi-offline is not installed: install requirements/api.txt or set API__DOCS_ENABLED=false"
        )
    files = Path(package.origin).parent / "static"
    openapi_url = app.openapi_url or "/openapi.json"
    headers = {"content-security-policy": _POLICY}

    def root_of(request: Request) -> str:
        root: str = request.scope.get("root_path", "")
        return root.rstrip("/")

    async def swagger(request: Request) -> Response:
        page = _SWAGGER.format(title=html.escape(app.title), root=html.escape(root_of(request)))
        return HTMLResponse(page, headers=headers)

    async def start(request: Request) -> Response:
        script = _START.format(url=orjson.dumps(root_of(request) + openapi_url).decode())
        return Response(script, media_type="text/javascript", headers={"cache-control": "no-cache"})

    async def redoc(request: Request) -> Response:
        root = html.escape(root_of(request))
        page = _REDOC.format(title=html.escape(app.title), root=root, openapi=html.escape(openapi_url))
        return HTMLResponse(page, headers=headers)

    app.router.routes += [
        Route("/docs", swagger, include_in_schema=False),
        Route("/docs/start.js", start, include_in_schema=False),
        Route("/redoc", redoc, include_in_schema=False),
        Mount("/docs/assets", _Assets(directory=files), name="docs-assets"),
    ]


class _Assets(StaticFiles):
    """The pages' files, from memory once they were asked for: a megabyte and a half that is read from the disk and packed anew
    for each reader holds up the loop of everybody else."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        # By path, and whether it is packed.
        self._kept: dict[tuple[str, bool], tuple[dict[str, str], bytes]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["method"] not in _READING:
            raise HTTPException(405, headers={"Allow": ", ".join(_READING)})
        key = path, scope["state"]["exchange"].takes_gzip
        if key not in self._kept:
            found = await super().get_response(path, {**scope, "headers": []})
            if not isinstance(found, FileResponse):
                return found
            async with self._one_at_a_time:
                if key not in self._kept:
                    self._kept[key] = await asyncio.to_thread(_pack if key[1] else _read, found)
        headers, body = self._kept[key]
        response = Response(body, headers=headers)  # its own: what sends it adds headers
        if has_current(Headers(scope=scope).get("if-none-match"), headers["etag"]):
            return NotModifiedResponse(response.headers)
        return response


def _read(file: FileResponse) -> tuple[dict[str, str], bytes]:
    headers = {name: value for name, value in file.headers.items() if name != "content-length"}
    return headers | {"cache-control": _CACHE_FILES, "vary": "Accept-Encoding"}, Path(file.path).read_bytes()


def _pack(file: FileResponse) -> tuple[dict[str, str], bytes]:
    headers, body = _read(file)
    tag = f'{headers["etag"][:-1]}-gzip"'  # another representation has another one
    return headers | {"content-encoding": "gzip", "etag": tag}, gzip.compress(body, _GZIP_LEVEL)
