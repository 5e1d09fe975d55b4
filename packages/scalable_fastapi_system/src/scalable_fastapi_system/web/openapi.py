"""OpenAPI that tells the truth: every operation lists the failures that it can answer with, in their one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scalable_fastapi_system.web.conditional import has_current, weak_tag
from scalable_fastapi_system.web.openapi_links import describe_links
from scalable_fastapi_system.web.problems import MEDIA_TYPE, Problem
from scalable_fastapi_system.web.route_table import PROBES

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_MOST_ROOTS = 16
# What any operation may answer, by the middleware: too many requests, a defect, a store away or a full process.
_ALWAYS = {
    "429": "Too many requests; Retry-After says when to come back",
    "500": "A defect; the request id finds it in the log",
    "503": "A store is away or the process is full; Retry-After says when to come back",
}
_WITH_BODY = {
    "400": "The body cannot be read",
    "408": "The body did not arrive in time",
    "413": "The body is too large",
}


def install_openapi(app: FastAPI, *describe: Callable[[dict[str, Any]], None]) -> None:
    """Replaces the application's OpenAPI by one with the failures written in, and what `describe` adds to it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
                servers=app.servers,
            )
            _describe_failures(schema)
            describe_links(schema)
            for add in describe:
                add(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    _serve_as_bytes(app)


class _Rendered(NamedTuple):
    document: dict[str, Any]
    body: bytes
    tag: str


def _serve_as_bytes(app: FastAPI) -> None:
    """Answers the document in place of FastAPI's own route, which makes all of it into JSON at each request.

    That stops the loop for some milliseconds; here it is done once for each root path, and again when `app.openapi()`
    gives another object. One that is changed in place is not noticed.
    """
    kept: dict[str, _Rendered] = {}

    async def answer(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        document = app.openapi()
        found = kept.get(root)
        if found is None or found.document is not document:
            if len(kept) >= _MOST_ROOTS:  # a proxy that makes them up
                kept.clear()
            body = bytes(JSONResponse(_under(app, root, document)).body)
            found = kept[root] = _Rendered(document, body, weak_tag(body))
        headers = {"Cache-Control": "no-cache", "ETag": found.tag}
        if has_current(request.headers.get("if-none-match"), found.tag):
            return Response(status_code=304, headers=headers)
        return Response(found.body, media_type="application/json", headers=headers)

    routes = app.router.routes
    for index, route in enumerate(routes):
        if isinstance(route, Route) and route.path == app.openapi_url:
            routes[index] = Route(route.path, answer, include_in_schema=False)


def _under(app: FastAPI, root: str, document: dict[str, Any]) -> dict[str, Any]:
    """The document with the root path among its servers, as FastAPI has it."""
    servers = document.get("servers", [])
    if not root or not app.root_path_in_servers or any(server.get("url") == root for server in servers):
        return document
    return {**document, "servers": [{"url": root}, *servers]}


def _describe_failures(schema: dict[str, Any]) -> None:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    described = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, part in described.pop("$defs", {}).items():
        schemas[name] = part
    schemas["Problem"] = described
    # FastAPI's own shape of a 422 is never sent.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for path, operations in schema.get("paths", {}).items():
        for operation in operations.values():
            if path in PROBES:
                continue
            responses = operation.setdefault("responses", {})
            for status, description in _possible(operation).items():
                found = responses.setdefault(status, {"description": description})
                if status == "422" or "content" not in found:
                    found["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}


def _possible(operation: dict[str, Any]) -> dict[str, str]:
    found = dict(_ALWAYS)
    if "requestBody" in operation:
        found |= _WITH_BODY
    if "requestBody" in operation or "parameters" in operation:
        found["422"] = "Something in the input is not acceptable; `errors` says what"
    if operation.get("security"):
        found |= {"401": "Not signed in", "403": "Signed in, but not allowed"}
    if any(parameter.get("in") == "path" for parameter in operation.get("parameters", ())):
        found["404"] = "There is no such thing, or not for this caller"
    return found
