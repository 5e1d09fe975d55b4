"""What text every store can hold."""

from __future__ import annotations


def is_short_text(value: object, most: int) -> bool:
    """Whether this is text of 1 to so many characters that every database can hold."""
    return isinstance(value, str) and 0 < len(value) <= most and is_storable(value)


def is_storable(text: str) -> bool:
    """Whether every database can hold the text: none of U+0000, nothing that is half a character."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
