"""Circuit breaker and retry budget: how a caller protects a service that is in trouble, and itself.

Both are plain state machines over an injected clock; nothing here does I/O. One event loop uses an instance.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Monotonic = Callable[[], float]


class CircuitOpenError(Exception):
    """The service failed too often lately; it is not called until `retry_after_seconds` have passed."""

    def __init__(self, name: str, retry_after_seconds: float) -> None:
        super().__init__(f"{name} is not called for another {retry_after_seconds:.1f} s: it failed too often")
        self.retry_after_seconds = retry_after_seconds


class CircuitBreaker:
    """Closed: calls go through. Open after `failures` in a row: refused at once. Half-open: one probe at a time."""

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        open_seconds: float = 10.0,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self.name = name
        self._limit = failures
        self._open_seconds = open_seconds
        self._monotonic = monotonic
        self._failures = 0
        self._opened_at: float | None = None
        self._is_probing = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if self._opened_at is None:
            return "closed"
        return "open" if self._monotonic() - self._opened_at < self._open_seconds else "half-open"

    def before_call(self) -> None:
        """Call it before each call. Raises CircuitOpenError where the call must not be made."""
        if self._opened_at is None:
            return
        remaining = self._open_seconds - (self._monotonic() - self._opened_at)
        if remaining > 0 or self._is_probing:
            raise CircuitOpenError(self.name, max(remaining, 0.1))
        self._is_probing = True

    def succeeded(self) -> None:
        self._failures, self._opened_at, self._is_probing = 0, None, False

    def failed(self) -> None:
        self._failures += 1
        if self._is_probing or self._failures >= self._limit:
            self._opened_at = self._monotonic()
        self._is_probing = False

    def abandoned(self) -> None:
        """The call was cancelled by its caller: it says nothing about the service."""
        self._is_probing = False


class RetryBudget:
    """Keeps retries to a share of the calls, so that an outage is not answered with several times the traffic."""

    def __init__(self, ratio: float, *, reserve: float = 3.0) -> None:
        """`reserve`: retries that a quiet caller may make at once."""
        self._ratio = ratio
        self._ceiling = reserve
        self._tokens = reserve

    def note_call(self) -> None:
        self._tokens = min(self._ceiling, self._tokens + self._ratio)

    def take(self) -> bool:
        """Whether another retry is in the budget; if so it is spent."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
