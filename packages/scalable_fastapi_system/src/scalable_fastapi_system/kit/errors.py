"""The exceptions that mean something to a client, with the status, code and title that each becomes.

Raise one where the problem is found; the web layer turns it into the error envelope (RFC 9457 and the
guide's members in one body), the job engine into a job's error. Anything that is not an `APIException`
is a defect and reaches a client as a plain 500 without its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with the input: where (`body.email`), what, and a stable machine-readable type."""

    location: str
    message: str
    type: str = "invalid"

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class APIException(Exception):  # noqa: N818 - the guide's public name
    """An error with an HTTP status that a client may read.

    `message` is shown to the client as it is, so it never carries internals or secrets.
    """

    status_code = 400
    error_code: str | None = None
    title = "Request failed"

    def __init__(
        self,
        message: str,
        status_code: int | None = None,
        error_code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        problems: Sequence[FieldProblem] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        if status_code is not None:
            self.status_code = status_code
        if error_code is not None:
            self.error_code = error_code
        self.headers: dict[str, str] = dict(headers or {})
        self.problems: tuple[FieldProblem, ...] = tuple(problems)


class ValidationException(APIException):
    """The input was understood but is not acceptable (422)."""

    status_code = 422
    error_code = "VALIDATION_ERROR"
    title = "Validation failed"

    def __init__(self, message: str, field: str | None = None, **extra: Sequence[FieldProblem]) -> None:
        problems = extra.pop("problems", ()) or ((FieldProblem(field, message),) if field else ())
        if extra:
            raise TypeError(f"unexpected arguments: {', '.join(extra)}")
        super().__init__(message, problems=problems)
        self.field = field


class AuthenticationException(APIException):
    """Nobody, or nobody we know (401)."""

    status_code = 401
    error_code = "AUTHENTICATION_ERROR"
    title = "Authentication required"

    def __init__(self, message: str = "Authentication failed") -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class AuthorizationException(APIException):
    """Known, but not allowed (403)."""

    status_code = 403
    error_code = "AUTHORIZATION_ERROR"
    title = "Not allowed"

    def __init__(self, message: str = "Insufficient permissions") -> None:
        super().__init__(message)


class NotFoundException(APIException):
    """There is no such thing, or not for this caller: the two are not told apart (404)."""

    status_code = 404
    error_code = "NOT_FOUND"
    title = "Not found"

    def __init__(self, message: str = "Not found") -> None:
        super().__init__(message)


class ConflictException(APIException):
    """The request contradicts the present state (409)."""

    status_code = 409
    error_code = "CONFLICT"
    title = "Conflict"

    def __init__(self, message: str = "Conflict", error_code: str | None = None) -> None:
        super().__init__(message, error_code=error_code)


class PayloadTooLargeException(APIException):
    """More bytes than allowed (413)."""

    status_code = 413
    error_code = "PAYLOAD_TOO_LARGE"
    title = "Payload too large"


class RateLimitExceededException(APIException):
    """Too many requests in the window (429)."""

    status_code = 429
    error_code = "RATE_LIMIT_EXCEEDED"
    title = "Too many requests"

    def __init__(
        self, message: str = "Rate limit exceeded", *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, headers=headers)


class ServiceUnavailableException(APIException):
    """A store or service that this request needs is away; trying again later may work (503)."""

    status_code = 503
    error_code = "SERVICE_UNAVAILABLE"
    title = "Service unavailable"

    def __init__(
        self, message: str = "Service temporarily unavailable", *, retry_after_seconds: int = 5
    ) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after_seconds)})


class ConfigurationError(Exception):
    """The settings do not make sense. The message names the variable and what to do; a service that
    meets one prints it and exits before it listens."""
