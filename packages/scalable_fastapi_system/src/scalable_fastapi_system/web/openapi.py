"""OpenAPI that tells the truth: every operation lists the failures that it can answer with, in their one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi._compat import get_definitions, get_flat_models_from_fields, get_model_name_map
from fastapi.openapi.utils import get_fields_from_routes, get_openapi
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scalable_fastapi_system.web.conditional import has_current, weak_tag
from scalable_fastapi_system.web.openapi_links import describe_links
from scalable_fastapi_system.web.problems import MEDIA_TYPE, Problem, ProblemField
from scalable_fastapi_system.web.route_table import PROBES

_SCHEMAS = "#/components/schemas/"
# FastAPI's own shape of a 422, which is never sent, and what it refers to.
_UNSENT = ("HTTPValidationError", "ValidationError")
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
    """Replaces the application's OpenAPI by one with the failures written in, and what `describe` adds to it.

    It is made anew when a route was added; a document that somebody else put into `app.openapi_schema` stays.
    """
    made: dict[str, Any] | None = None
    made_of: int | None = None

    def openapi() -> dict[str, Any]:
        nonlocal made, made_of
        version = app.router._get_routes_version()
        found = app.openapi_schema
        if found is None or (found is made and version != made_of):
            found = made = app.openapi_schema = _document_of(app)
            made_of = version
            _describe_failures(found)
            describe_links(found)
            for add in describe:
                add(found)
        return found

    app.openapi = openapi  # type: ignore[method-assign]
    _serve_as_bytes(app)


def problem_schema(document: dict[str, Any]) -> dict[str, str]:
    """A reference to the platform's schema of a failure, which this puts into the document where it is not there yet."""
    fields = _place(document, ProblemField, ProblemField.model_json_schema())
    described = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
    del described["$defs"]
    described["properties"]["problems"]["items"] = {"$ref": fields}
    return {"$ref": _place(document, Problem, described)}


def _place(document: dict[str, Any], model: type[BaseModel], described: dict[str, Any]) -> str:
    """Puts a model of the platform under its name, or where a product has one of that name under its full one.

    The full name is made as FastAPI makes them. Where a product uses this very model in an answer, that may be told in
    other words (members with a default as required ones), so it is known by its text and members.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    name = model.__name__
    found = schemas.get(name)
    if found is not None and (
        found.get("description") != described["description"]
        or found.get("properties", {}).keys() != described["properties"].keys()
    ):
        name = f"{model.__module__}.{name}".replace(".", "__")
    schemas[name] = described
    return _SCHEMAS + name


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


def _document_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own document, of all that `FastAPI.openapi` makes it of."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        summary=app.summary,
        description=app.description,
        terms_of_service=app.terms_of_service,
        contact=app.contact,
        license_info=app.license_info,
        routes=app.routes,
        webhooks=app.webhooks.routes,
        tags=app.openapi_tags,
        servers=app.servers,
        separate_input_output_schemas=app.separate_input_output_schemas,
        external_docs=app.openapi_external_docs,
    )
    document.get("components", {}).get("schemas", {}).update(_overwritten(app))
    return document


def _overwritten(app: FastAPI) -> dict[str, Any]:
    """The product's models of the names of `_UNSENT`: FastAPI writes its own two over them, wherever a 422 refers to them."""
    fields = get_fields_from_routes([*app.routes, *app.webhooks.routes])
    names = get_model_name_map(get_flat_models_from_fields(fields, known_models=set()))
    if not any(model.__name__ in _UNSENT for model in names):
        return {}
    _, schemas = get_definitions(
        fields=fields,
        model_name_map=names,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    return {name: schemas[name] for name in _UNSENT if name in schemas}


def _describe_failures(schema: dict[str, Any]) -> None:
    problem = problem_schema(schema)
    for path, operations in schema.get("paths", {}).items():
        for operation in operations.values():
            if path in PROBES:
                continue
            responses = operation.setdefault("responses", {})
            for status, description in _possible(operation).items():
                found = responses.setdefault(status, {"description": description})
                if "content" not in found or _is_fastapi_s_own(found):
                    found["content"] = {MEDIA_TYPE: {"schema": problem}}
    # Callbacks and webhooks are answered by others, and there FastAPI's word stands.
    for name in _UNSENT:
        if _SCHEMAS + name not in set(_references(schema)):
            schema["components"]["schemas"].pop(name, None)


def _is_fastapi_s_own(response: dict[str, Any]) -> bool:
    """Whether FastAPI wrote this 422, and not the route."""
    schemas = [content.get("schema", {}) for content in response["content"].values()]
    return schemas == [{"$ref": _SCHEMAS + _UNSENT[0]}]


def _references(part: Any) -> Iterator[str]:
    """Every `$ref` in it, however deep."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _references(one)


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
