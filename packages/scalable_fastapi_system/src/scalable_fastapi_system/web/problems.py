"""The one shape of every failure: the guide's envelope and RFC 9457's members in one `application/problem+json`.

No answer carries a traceback, a statement or the input that was wrong: a client gets what it may know and the
request id, the log has the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from scalable_fastapi_system.kit.errors import APIException, FieldProblem
from scalable_fastapi_system.web.envelope import BODILESS, request_id_of, to_json
from scalable_fastapi_system.web.route_table import allowed_methods, route_path

MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:scalable-fastapi-system:error:"
# Named here where our own name differs from the phrase, or where the phrase differs between Python versions.
_CODES = {
    401: "AUTHENTICATION_ERROR",
    403: "AUTHORIZATION_ERROR",
    413: "PAYLOAD_TOO_LARGE",
    422: "VALIDATION_ERROR",
    429: "RATE_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
}
_TITLES = {413: "Payload too large", 422: "Validation failed"}


class ProblemField(BaseModel):
    """One thing wrong with the input."""

    location: str = Field(description="Where, for instance `body.email`.")
    message: str
    type: str


class Problem(BaseModel):
    """A failure, as OpenAPI describes it."""

    success: bool = False
    message: str = Field(description="For people; the same as `detail`.")
    error_code: str = Field(description="For programs; stable.")
    errors: list[str] = Field(default_factory=list, description="One line per thing wrong with the input.")
    problems: list[ProblemField] = Field(default_factory=list, description="The same, for programs.")
    request_id: str | None = None
    type: str = Field(description="RFC 9457: names the kind of problem.")
    title: str = Field(description="RFC 9457: the kind of problem, for people.")
    status: int = Field(description="RFC 9457: the HTTP status.")
    detail: str = Field(description="RFC 9457: this occurrence, for people.")
    instance: str = Field(description="RFC 9457: the path of the request.")
    data: Any = Field(
        default=None,
        description="Where an `HTTPException` has a `detail` that is no text: that. Else left out.",
    )


def problem_body(
    *,
    status: int,
    message: str,
    path: str,
    request_id: str | None,
    error_code: str | None = None,
    title: str | None = None,
    problems: Sequence[FieldProblem] = (),
) -> dict[str, Any]:
    """The members of a failure's body."""
    code = error_code or _CODES.get(status) or _phrase(status).upper().replace(" ", "_").replace("-", "_")
    return {
        "success": False,
        "message": message,
        "error_code": code,
        "errors": [str(problem) for problem in problems],
        "problems": [
            {"location": problem.location, "message": problem.message, "type": problem.type}
            for problem in problems
        ],
        "request_id": request_id,
        "type": _TYPE_PREFIX + code.lower().replace("_", "-"),
        "title": title or _TITLES.get(status) or _phrase(status),
        "status": status,
        "detail": message,
        "instance": path,
    }


def problem_response(request: Request, error: APIException) -> Response:
    """The answer for one of our own exceptions."""
    return _response(
        request,
        status=error.status_code,
        message=error.message,
        error_code=error.error_code,
        title=error.title if error.title != APIException.title else None,
        problems=error.problems,
        headers=error.headers,
    )


def install_error_handlers(app: FastAPI) -> None:
    """Makes every exception that may reach a client come out in the one shape."""
    app.add_exception_handler(APIException, _on_api_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def validation_problems(errors: Iterable[Mapping[str, Any]]) -> list[FieldProblem]:
    """Pydantic's errors as ours. The input is left out: it may be a password."""
    return [
        FieldProblem(
            location=".".join(str(part) for part in error.get("loc", ())),
            message=str(error.get("msg", "")).removeprefix("Value error, "),
            type=str(error.get("type", "invalid")),
        )
        for error in errors
    ]


async def _on_api_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIException)  # noqa: S101 - registered for this class only
    return problem_response(request, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    problems = validation_problems(error.errors())
    # FastAPI raises it from a variable of its own: through the traceback it holds itself and the whole request.
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return _response(request, status=422, message="Validation failed", problems=problems)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    detail = error.detail if isinstance(error.detail, str) else _phrase(error.status_code)
    headers = dict(error.headers or {})
    if error.status_code == 405 and "Allow" in headers:
        headers["Allow"] = (
            ", ".join(allowed_methods(request.app, route_path(request.scope))) or headers["Allow"]
        )
    data = None if isinstance(error.detail, str) else error.detail
    return _response(request, status=error.status_code, message=detail, headers=headers, data=data)


def _response(
    request: Request,
    *,
    status: int,
    message: str,
    error_code: str | None = None,
    title: str | None = None,
    problems: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
    data: Any = None,
) -> Response:
    if status in BODILESS:
        return Response(status_code=status, headers=dict(headers or {}))
    body = problem_body(
        status=status,
        message=message,
        path=request.scope["path"],
        request_id=request_id_of(request),
        error_code=error_code,
        title=title,
        problems=problems,
    )
    if data is not None:
        body["data"] = data
    return Response(to_json(body), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
