"""Identifiers: time-ordered UUIDs (RFC 9562 version 7) and request ids."""

from __future__ import annotations

import os
import re
import time
import uuid

_REQUEST_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_IDS_AT_ONCE = 256
_request_ids: list[str] = []  # made and not yet given out
if hasattr(os, "register_at_fork"):  # two processes are never to give out the same ones
    os.register_at_fork(after_in_child=_request_ids.clear)


def new_id() -> uuid.UUID:
    """A UUIDv7: sorts by the millisecond of its making, so that inserts touch the end of an index."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76
    value |= ((random_bits >> 64) & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random_bits & 0x3FFF_FFFF_FFFF_FFFF
    return uuid.UUID(int=value)


def new_request_id() -> str:
    """32 hexadecimal digits, random."""
    try:
        return _request_ids.pop()  # safe among threads, and no call of the kernel for each
    except IndexError:
        digits = os.urandom(16 * _IDS_AT_ONCE).hex()
        _request_ids.extend(digits[at : at + 32] for at in range(32, len(digits), 32))
        return digits[:32]


def is_request_id(value: str) -> bool:
    """Whether an inbound request id may be taken over: 1 to 64 of letters, digits, `_` and `-`."""
    return _REQUEST_ID.fullmatch(value) is not None
