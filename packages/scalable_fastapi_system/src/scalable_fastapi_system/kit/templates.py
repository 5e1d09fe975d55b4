"""Templates of `str.format`, read without filling them in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import Formatter

_NAME = re.compile(r"[^.\[]*")


def names_in(template: str) -> Iterator[str]:
    """The names that a template takes, without their attributes and items, those in the formats of fields too; "" for `{}`.

    Raises ValueError where it is no template.
    """
    for _, field, inner, conversion in Formatter().parse(template):
        if field is None:  # the text after the last field
            continue
        if conversion not in (None, "r", "s", "a"):
            raise ValueError(f"no conversion !{conversion}")
        yield _NAME.match(field)[0]  # type: ignore[index] # it fits any text
        yield from names_in(inner or "")
