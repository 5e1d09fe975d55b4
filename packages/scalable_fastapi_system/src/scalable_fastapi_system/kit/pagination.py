"""Keyset pages: a list is read from after the last row seen, so its cost does not grow with its depth.

A cursor is opaque to clients: URL-safe base64 of the JSON of the last row's sort values. One that cannot be
read is a 422, never a silent first page.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from scalable_fastapi_system.kit.errors import ValidationException

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items and the cursor to go on from, None at the end."""

    items: Sequence[T]
    next_cursor: str | None


def encode_cursor(values: Sequence[Any]) -> str:
    """The cursor for a row whose sort values are these (str, int, float, None, datetime, UUID)."""
    plain = [_to_plain(value) for value in values]
    raw = json.dumps(plain, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(cursor: str, *, types: Sequence[type]) -> tuple[Any, ...]:
    """The sort values in a cursor, as these types. Raises ValidationException for anything else."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        plain = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(plain, list) or len(plain) != len(types):
            raise ValueError("shape")
        return tuple(_from_plain(value, kind) for value, kind in zip(plain, types, strict=True))
    except (ValueError, TypeError, UnicodeError, binascii.Error) as error:
        raise ValidationException("The cursor is not one that this list gave out", field="cursor") from error


def page_of(rows: Sequence[T], *, limit: int, key: Any) -> Page[T]:
    """A page from `limit + 1` rows that were asked for; `key(row)` gives a row's sort values."""
    if len(rows) <= limit:
        return Page(rows, None)
    kept = rows[:limit]
    return Page(kept, encode_cursor(key(kept[-1])))


def _to_plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def _from_plain(value: Any, kind: type) -> Any:
    if kind is UUID and not isinstance(value, str):
        raise ValueError("not a UUID")
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("naive")
        return moment
    if kind is UUID:
        return UUID(value)
    if kind is int and (isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**63 - 1):
        raise ValueError("not an integer")
    return kind(value)
