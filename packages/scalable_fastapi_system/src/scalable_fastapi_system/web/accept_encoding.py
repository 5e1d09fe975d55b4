"""`Accept-Encoding` with weights: which of the two codings, gzip and none, a client wants (RFC 9110 section 12.5.3)."""

from __future__ import annotations

import re

_WEIGHT = re.compile(rb"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*")


def wants_gzip(accept_encoding: bytes) -> bool:
    """Whether gzip is named with a weight that is above 0 and not below that of `identity`.

    accept_encoding: the header's value, with or without weights. A weight that is none counts as 0.
    """
    weights: dict[bytes, float] = {}
    for one in accept_encoding.lower().split(b","):
        coding, semicolon, parameter = one.partition(b";")
        weights[coding.strip()] = _weight(parameter) if semicolon else 1.0
    gzip = weights.get(b"gzip", weights.get(b"x-gzip", 0.0))
    return gzip > 0.0 and gzip >= weights.get(b"identity", 0.0)


def _weight(parameter: bytes) -> float:
    found = _WEIGHT.fullmatch(parameter)
    return float(found[1]) if found is not None else 0.0
