"""Marks on endpoints that the platform's middleware obeys before the endpoint runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

BODY_LIMIT_ATTRIBUTE = "__body_limit_bytes__"
TIMEOUT_ATTRIBUTE = "__timeout_seconds__"
POLICY_ATTRIBUTE = "__rate_limit_policy__"
SECRETS_ATTRIBUTE = "__carries_secrets__"
IDEMPOTENT_ATTRIBUTE = "__takes_idempotency_keys__"


def body_limit(limit_bytes: int) -> Callable[[F], F]:
    """Lets this endpoint take bodies up to `limit_bytes` in place of `API__MAX_BODY_BYTES`.

    Raises TypeError for what is no number of bytes: it would be noticed at the first request only.
    """
    if not isinstance(limit_bytes, int) or limit_bytes < 0:
        raise TypeError(
            f"body_limit takes a number of bytes, for instance 10_000_000, and not {limit_bytes!r}"
        )
    return _mark(BODY_LIMIT_ATTRIBUTE, limit_bytes)


def request_timeout(seconds: float | timedelta | None) -> Callable[[F], F]:
    """Gives this endpoint its own time until its answer begins; None for none (large uploads, events). Raises TypeError for what is
    no time above 0."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise TypeError(f"request_timeout takes seconds above 0, a timedelta or None, and not {seconds!r}")
    return _mark(TIMEOUT_ATTRIBUTE, seconds)


def rate_limit(policy: str) -> Callable[[F], F]:
    """Puts this endpoint under another policy of the rate limits, for instance `auth`."""
    return _mark(POLICY_ATTRIBUTE, policy)


def carries_secrets(endpoint: F) -> F:
    """Keeps this endpoint's answers uncompressed, for their length would tell about the secret (BREACH), and unstored."""
    return _mark(SECRETS_ATTRIBUTE, True)(endpoint)


def idempotent(endpoint: F) -> F:
    """Lets this endpoint take an `Idempotency-Key`, because all that it writes, it writes by `request_transaction`.

    An endpoint that takes `Transaction` needs no mark.
    """
    return _mark(IDEMPOTENT_ATTRIBUTE, True)(endpoint)


def _mark(attribute: str, value: Any) -> Callable[[F], F]:
    def decorate(endpoint: F) -> F:
        setattr(endpoint, attribute, value)
        return endpoint

    return decorate
