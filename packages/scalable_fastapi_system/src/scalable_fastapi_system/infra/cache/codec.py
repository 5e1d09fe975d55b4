"""Values as the cache keeps them: JSON, at both levels and always.

What comes out is what JSON has: dict with text keys, list, str, int, float, bool, None. Datetimes and dates are
ISO 8601 text, UUIDs and Decimals text, enums their values, tuples and sets lists, dataclasses and pydantic models
dicts. A function's result is the same whether it was computed or cached. Pickle is never read: whoever can write to
Redis must not be able to run code here.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

_OPTIONS = orjson.OPT_NON_STR_KEYS


class CacheValueError(TypeError):
    """The value is not one that JSON can say, so it cannot be cached. Names the type."""


def encode(value: Any) -> bytes:
    """The value as JSON. Raises CacheValueError for what JSON cannot say."""
    try:
        # A copy: what orjson gives keeps the room it was written in, several kilobytes for a hundred bytes.
        return bytes(memoryview(orjson.dumps(value, default=_to_plain, option=_OPTIONS)))
    except TypeError as error:
        cause = error.__cause__ or error  # orjson hides behind its own error what `_to_plain` said
        raise CacheValueError(f"a {type(value).__name__} cannot be cached: {cause}") from None


def decode(payload: bytes) -> Any:
    """The value that was encoded, as plain JSON types."""
    return orjson.loads(payload)


def _to_plain(value: Any) -> Any:
    if isinstance(value, UUID):  # a driver's own kind of UUID
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)  # the same set, the same bytes
        except TypeError:
            return list(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, tuple):  # a named one
        return list(value)
    raise CacheValueError(f"{type(value).__name__} is not JSON")
