"""OpenAPI links: which operations take the id that an answer gives.

Clients that follow them, and tools that test by them, need not guess: an answer with a `task_id` leads to every
operation on that task, and the answer to `POST /things` to every one on `/things/{thing_id}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]

_PARAMETER = re.compile(r"\{(\w+)\}")
_METHODS = ("get", "put", "post", "delete", "patch")


def describe_links(document: Document) -> None:
    """Writes the links of every answer to a POST into the document."""
    for path, operations in document.get("paths", {}).items():
        for status, response in operations.get("post", {}).get("responses", {}).items():
            if not status.startswith("2"):
                continue
            links = dict(_links(document, path, response))
            if links:
                response["links"] = links


def _links(document: Document, path: str, response: Document) -> Iterator[tuple[str, Document]]:
    answer = response.get("content", {}).get("application/json", {}).get("schema", {})
    has_task = _property(document, answer, "task_id") is not None
    has_id = _property(document, _property(document, answer, "data") or {}, "id") is not None
    for target, operations in document["paths"].items():
        names = _PARAMETER.findall(target)
        if len(names) != 1:
            continue
        if has_task and names == ["task_id"]:
            pointer = "/task_id"
        elif has_id and target.startswith(f"{path}/{{"):
            pointer = "/data/id"
        else:
            continue
        for method in _METHODS:
            if method in operations:
                yield (
                    operations[method]["operationId"],
                    {
                        "operationId": operations[method]["operationId"],
                        "parameters": {names[0]: f"$response.body#{pointer}"},
                    },
                )


def _property(document: Document, schema: Document, name: str) -> Document | None:
    """The schema of a member, through references and a null beside it; None where there is none."""
    for part in (schema, *schema.get("anyOf", ())):
        while "$ref" in part:
            part = document["components"]["schemas"][part["$ref"].rpartition("/")[2]]  # noqa: PLW2901
        found: Document | None = part.get("properties", {}).get(name)
        if found is not None:
            return found
    return None
