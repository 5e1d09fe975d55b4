"""Conditional requests: entity tags, and whether the client has what it asks for already (RFC 9110 section 13)."""

from __future__ import annotations

import hashlib
import re

# In quotes, as it should be, or bare, as some applications and their clients write it.
_TAG = re.compile(r'(?:W/)?("[^"]*"|[^",\s]+)')


def weak_tag(body: bytes) -> str:
    """The entity tag of this content. Weak: the request id in it may differ, and compression come after."""
    return f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def has_current(if_none_match: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names this entity tag, in a list or by `*`: a GET or HEAD is then answered 304.

    Compared weakly (section 13.1.2): `W/"a"` and `"a"` are the same.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    plain = tag.removeprefix("W/")
    return any(found[1] == plain for found in _TAG.finditer(if_none_match))
