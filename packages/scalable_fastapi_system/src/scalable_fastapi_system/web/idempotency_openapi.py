"""Writes the `Idempotency-Key` header into the OpenAPI document, at every operation that takes one."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from scalable_fastapi_system.web.idempotency import HEADER, MAX_KEY_LENGTH, takes_keys
from scalable_fastapi_system.web.limits import SECRETS_ATTRIBUTE
from scalable_fastapi_system.web.openapi import problem_schema
from scalable_fastapi_system.web.problems import MEDIA_TYPE

_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A name for this request, made up by the client, such as a UUID. The same request sent again under "
    "it within 24 hours is not done again: it gets the first one's answer, with `Idempotency-Replayed: true`.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": r"^[!-~]+$"},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}
_FAILURES = {
    "400": "The request cannot be read",
    "409": "A request with this Idempotency-Key is being worked on; Retry-After says when to ask again",
    "422": "The Idempotency-Key was used for another request",
}
_REPLAYED = {
    "description": "`true` where this is the answer of an earlier request with the same Idempotency-Key.",
    "schema": {"type": "string", "enum": ["true"]},
}


def describe_idempotency_keys(app: FastAPI, schema: dict[str, Any]) -> None:
    """Adds the parameter, the failures that come of it and the header of a replayed answer."""
    problem = problem_schema(schema)
    paths: dict[str, Any] = schema.get("paths", {})
    for context in iter_route_contexts(app.router.routes):
        route = context.original_route
        if not isinstance(route, APIRoute) or "POST" not in (context.methods or ()):
            continue
        operation = paths.get(context.path_format or "", {}).get("post")
        if operation is None or not takes_keys(route) or getattr(route.endpoint, SECRETS_ATTRIBUTE, False):
            continue
        operation.setdefault("parameters", []).append(_PARAMETER)
        responses = operation.setdefault("responses", {})
        for status, answer in responses.items():
            if status.startswith("2"):
                answer.setdefault("headers", {})["Idempotency-Replayed"] = _REPLAYED
        for status, description in _FAILURES.items():
            found = responses.setdefault(
                status,
                {"description": description, "content": {MEDIA_TYPE: {"schema": problem}}},
            )
            if description not in found["description"]:
                found["description"] += f". {description}"
