"""What the limiter says of one request."""

from __future__ import annotations

from scalable_fastapi_system.infra.rate_limit.policies import Policy


class Decision:
    """Whether a request is admitted, and what its caller is told.

    rate: which of the policy's rates the figures are about: the one with the least left. Read it as one value; it is
    made for every request, so it has no more to it than that.
    """

    __slots__ = ("is_allowed", "policy", "rate", "remaining", "reset_seconds", "retry_after_seconds")

    def __init__(
        self,
        policy: Policy,
        rate: int,
        remaining: int,
        reset_seconds: int,
        retry_after_seconds: int = 0,
    ) -> None:
        """Admits where `retry_after_seconds` is 0."""
        self.policy = policy
        self.rate = rate
        self.remaining = remaining
        self.reset_seconds = reset_seconds
        self.retry_after_seconds = retry_after_seconds
        self.is_allowed = retry_after_seconds == 0

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The IETF fields for the answer, as raw ASGI headers; with Retry-After where the request is refused."""
        state = f'"{self.policy.rates[self.rate].name}";r={self.remaining};t={self.reset_seconds}'
        headers = [self.policy.header, (b"ratelimit", state.encode())]
        if not self.is_allowed:
            headers.append((b"retry-after", b"%d" % self.retry_after_seconds))
        return headers
