"""The one shape of every successful answer.

`{"success": true, "message": …, "data": …, "request_id": …}`, and beside them the members that the guide shows
at the top of an answer (`task_id`, `access_token` …), so that its examples work as they are typed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from types import GeneratorType
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
from fastapi.encoders import ENCODERS_BY_TYPE
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
    """JSON by orjson; pydantic models, datetimes, UUIDs and enums included, and what else FastAPI makes JSON of."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    """The content as JSON. Raises TypeError for what JSON cannot say."""
    try:
        return orjson.dumps(content, default=_encode, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # perhaps of a whole number over 64 bits, which orjson cannot write
        return _to_json_by_python(content)


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
    """What orjson does not know, as something that it knows; by FastAPI's rules where we have none."""
    if isinstance(value, UUID):  # a driver's own kind of UUID, which orjson leaves to us
        return str(value)
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.__pydantic_serializer__.to_json(value))
    if isinstance(value, str):  # subclasses, which orjson leaves to us
        return str.__str__(value)
    if isinstance(value, set | frozenset):
        # Of several types: in an order that is the same in every process, for the ETag's sake.
        try:
            return sorted(value)
        except TypeError:
            return sorted(value, key=repr)
    if isinstance(value, tuple):  # with names
        return list(value)
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "__int__") and hasattr(value, "as_tuple"):  # Decimal: exact as text
        return str(value)
    if not isinstance(value, GeneratorType):  # which would be empty where all is written once more, by Python
        for kind in type(value).__mro__:
            encode = ENCODERS_BY_TYPE.get(kind)
            if encode is not None:
                return _encoded(encode, value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _encoded(encode: Any, value: Any) -> Any:
    try:
        return encode(value)
    except UnicodeDecodeError as error:
        raise TypeError("bytes that are no UTF-8 are not JSON: encode them first") from error


def _to_json_by_python(content: Any) -> bytes:
    """The same JSON, slowly, and with whole numbers of any size; text that is no Unicode comes out escaped."""
    try:
        return json.dumps(_plain(content), separators=(",", ":")).encode()
    except (RecursionError, ValueError) as error:  # a loop, or a number of more digits than Python writes
        raise TypeError(str(error)) from error


def _plain(value: Any) -> Any:
    """The value of dicts, lists, text and numbers alone, as orjson and `_encode` would write it."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_plain(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, BaseModel):
        return _plain(json.loads(value.__pydantic_serializer__.to_json(value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = [member.name for member in dataclasses.fields(value) if not member.name.startswith("_")]
        return {name: _plain(getattr(value, name)) for name in members}
    return _plain(_encode(value))
