"""Names, such as tags, as callers may give them."""

from __future__ import annotations

from collections.abc import Iterable


def names_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """The names. A str is one of them: taken as a sequence it would be its letters, which nobody ever means."""
    return (given,) if isinstance(given, str) else tuple(given)
