"""Text that must not be shown: usable as `str`, masked in `repr`.

A `str` subclass and not pydantic's SecretStr, because the guide's users pass `settings.security.secret_key`
and `settings.database.database_url` straight on to libraries.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

MASK = "**********"
_PASSWORD_IN_URL = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<user>[^:/@\s]*):(?P<password>[^@\s]*)@"
)


def mask_url(url: str) -> str:
    """The URL with the password in it replaced; other text comes back as it is."""
    return _PASSWORD_IN_URL.sub(lambda found: f"{found['scheme']}{found['user']}:{MASK}@", url)


class SecretText(str):
    """A secret: `repr` shows only that there is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'" if self else "''"


class SecretUrl(str):
    """A URL that may carry a password: `repr` hides the password and nothing else."""

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
