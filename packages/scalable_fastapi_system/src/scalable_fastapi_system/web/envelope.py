"""The one shape of every successful answer.

`{"success": true, "message": …, "data": …, "request_id": …}`, and beside them the members that the guide shows
at the top of an answer (`task_id`, `access_token` …), so that its examples work as they are typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection
from starlette.responses import Response

T = TypeVar("T")

BODILESS = frozenset({204, 205, 304})
_RESERVED = frozenset({"success", "message", "data", "request_id"})


class Envelope(BaseModel, Generic[T]):
    """A successful answer, as OpenAPI describes it."""

    success: bool = Field(True, description="True in every answer with a 2xx status.")
    message: str = Field(description="For people.")
    data: T = Field(description="What was asked for.")
    request_id: str | None = Field(None, description="The same as the X-Request-ID header.")


class JSON(Response):
    """JSON by orjson; pydantic models, datetimes, UUIDs and enums included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    """The content as JSON. Raises TypeError for what JSON cannot say."""
    return orjson.dumps(content, default=_encode, option=orjson.OPT_NON_STR_KEYS)


def respond(
    connection: HTTPConnection,
    data: Any = None,
    message: str = "OK",
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
    **top: Any,
) -> Response:
    """The envelope around `data`; `top` adds members beside it. Nothing where the status has no body (204, 205, 304).

    Raises ValueError where a top member would hide one of the envelope's own.
    """
    if top and not _RESERVED.isdisjoint(top):
        raise ValueError(f"{_RESERVED & top.keys()} belong to the envelope")
    if status_code in BODILESS:  # a server that was given one ends the connection
        return Response(status_code=status_code, headers=dict(headers) if headers else None)
    body = {
        "success": True,
        "message": message,
        "data": data,
        "request_id": request_id_of(connection),
        **top,
    }
    return JSON(body, status_code=status_code, headers=dict(headers) if headers else None)


def request_id_of(connection: HTTPConnection) -> str | None:
    """The id of this request, None outside the platform's middleware."""
    state: dict[str, Any] = connection.scope.get("state") or {}
    return state.get("request_id")


def _encode(value: Any) -> Any:
    if isinstance(value, UUID):  # a driver's own kind of UUID, which orjson leaves to us
        return str(value)
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.__pydantic_serializer__.to_json(value))
    if isinstance(value, str):  # subclasses, which orjson leaves to us
        return str.__str__(value)
    if isinstance(value, UUID):  # asyncpg's own kind
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, bytes):
        raise TypeError("bytes are not JSON: encode them first")
    if hasattr(value, "__int__") and hasattr(value, "as_tuple"):  # Decimal: exact as text
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
