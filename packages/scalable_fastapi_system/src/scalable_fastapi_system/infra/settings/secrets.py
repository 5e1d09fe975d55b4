"""Text that must not be shown: usable as `str`, masked in `repr`.

A `str` subclass and not pydantic's SecretStr, because the guide's users pass `settings.security.secret_key`
and `settings.database.database_url` straight on to libraries.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, unquote_plus

from pydantic import AfterValidator, WithJsonSchema

MASK = "**********"
# It ends at the last @ of the authority. Every part stops where another URL may begin, so that a long text from a client
# is read once and not once for each letter of it.
_IN_AUTHORITY = re.compile(r"(?<=://)([^:/\s]*:)((?:(?!://)[^@\s])*(?:@[^@/?#\s]*)*)@")
# libpq takes `password` and `sslpassword`, MySQL's drivers `passwd`, Redis' client `password`.
_IN_QUERY = re.compile(r"(?i)([?&][a-z_]{0,32}passw(?:or)?d=)([^&#\s]*)")


def mask_url(url: str) -> str:
    """The URL with the passwords in it replaced; other text comes back as it is."""
    return _IN_AUTHORITY.sub(rf"\1{MASK}@", _IN_QUERY.sub(rf"\1{MASK}", url))


def passwords_in(url: str) -> set[str]:
    """The passwords that `mask_url` replaces, as they are written and as they are meant."""
    written = [password for _, password in _IN_QUERY.findall(url)]
    written += [password for _, password in _IN_AUTHORITY.findall(_IN_QUERY.sub(r"\1", url))]
    return {form for password in written for form in (password, unquote(password), unquote_plus(password))}


class SecretText(str):
    """A secret: `repr` shows only that there is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'" if self else "''"


class SecretUrl(str):
    """A URL that may carry passwords: `repr` hides them and nothing else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(mask_url(str(self)))


Secret = Annotated[str, AfterValidator(SecretText), WithJsonSchema({"type": "string", "format": "password"})]
Url = Annotated[str, AfterValidator(SecretUrl), WithJsonSchema({"type": "string", "format": "uri"})]


def masked(value: object) -> str:
    """How a setting may be printed."""
    if isinstance(value, SecretText):
        return MASK if value else ""
    return mask_url(str(value)) if isinstance(value, str) else repr(value)
