"""Which passwords may be chosen (NIST SP 800-63B, OWASP ASVS 5 chapter 6.2, and the guide's rule for short ones)."""

from __future__ import annotations

import re

from scalable_fastapi_system.identity.common_passwords import is_built_on, is_common
from scalable_fastapi_system.kit.errors import ValidationException

MIN_LENGTH = 8
# From here on length takes the place of composition: rules about letters only make long passwords predictable.
LONG_ENOUGH_LENGTH = 12
# A bound for the work of hashing, far above what anyone types.
MAX_LENGTH = 256

_COMPOSITION = (
    (re.compile(r"[A-Z]"), "Password must contain at least one uppercase letter"),
    (re.compile(r"[a-z]"), "Password must contain at least one lowercase letter"),
    (re.compile(r"\d"), "Password must contain at least one digit"),
)


def password_problem(password: str, *, own_words: tuple[str, ...] = ()) -> str | None:
    """Why this password may not be chosen, None where it may. `own_words`: the user's name and address."""
    if len(password) < MIN_LENGTH:
        return f"Password must be at least {MIN_LENGTH} characters"
    if len(password) > MAX_LENGTH:
        return f"Password must be at most {MAX_LENGTH} characters"
    if len(password) < LONG_ENOUGH_LENGTH:
        for pattern, problem in _COMPOSITION:
            if pattern.search(password) is None:
                return f"{problem}, or be at least {LONG_ENOUGH_LENGTH} characters long"
    if is_common(password):
        return "Password is one of the most common ones"
    words = tuple(part for word in own_words for part in (word, *word.split("@", 1)))
    if is_built_on(password, words):
        return "Password must not be your name or address"
    return None


def refuse_weak(password: str, *, own_words: tuple[str, ...], field: str = "body.new_password") -> None:
    """Raises ValidationException (422) for a password that may not be chosen."""
    problem = password_problem(password, own_words=own_words)
    if problem is not None:
        raise ValidationException(problem, field=field)
