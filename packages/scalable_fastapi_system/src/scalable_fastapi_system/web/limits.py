"""Marks on endpoints that the platform's middleware obeys before the endpoint runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

BODY_LIMIT_ATTRIBUTE = "__body_limit_bytes__"
TIMEOUT_ATTRIBUTE = "__timeout_seconds__"
POLICY_ATTRIBUTE = "__rate_limit_policy__"
SECRETS_ATTRIBUTE = "__carries_secrets__"
IDEMPOTENT_ATTRIBUTE = "__takes_idempotency_keys__"


def body_limit(limit_bytes: int) -> Callable[[F], F]:
    """Lets this endpoint take bodies up to `limit_bytes` in place of `API__MAX_BODY_BYTES`."""
    return _mark(BODY_LIMIT_ATTRIBUTE, limit_bytes)


def request_timeout(seconds: float | None) -> Callable[[F], F]:
    """Gives this endpoint its own time limit; None for none (streams, uploads)."""
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
