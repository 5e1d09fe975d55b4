"""OpenAPI that tells the truth: every operation lists the failures that it can answer with, in their one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from scalable_fastapi_system.web.openapi_links import describe_links
from scalable_fastapi_system.web.problems import MEDIA_TYPE, Problem

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_PROBE_PATHS = ("/health", "/metrics")
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
            if path.startswith(_PROBE_PATHS):
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
