"""The HTTP side of `cache_response`: what an endpoint with it answers.

Kept are plain values, which FastAPI then passes through the endpoint's response model as ever, and whole responses
with status 200, as bytes. Not kept: other statuses, streams, files, answers that set cookies, start background work or
forbid it by their own Cache-Control, be it on a response that is returned or on what FastAPI hands the endpoint; and
nothing but GET and HEAD is looked up.

Whose an answer is: of the principal that the endpoint takes, else of the one that the request was found to come from,
else of its credentials (Authorization, X-API-Key, Cookie). An answer that is somebody's says `private, no-cache`: a
browser asks again each time and gets a 304, so a revoked or another user of the same browser never sees it.

An envelope's `request_id` is the request's: it is taken out of what is kept and put in again for each answer.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.background import BackgroundTasks
from starlette.requests import Request

from scalable_fastapi_system.infra.cache.call_keys import Call, annotations_of, caller_of, credentials_of
from scalable_fastapi_system.infra.cache.codec import decode, encode
from scalable_fastapi_system.infra.cache.loading import Loaded, UncacheableError
from scalable_fastapi_system.infra.cache.manager import CacheManager
from scalable_fastapi_system.infra.cache.memory import Entry
from scalable_fastapi_system.infra.cache.responses import (
    REQUEST_PARAMETER,
    RESPONSE_PARAMETER,
    CachedFunction,
)
from scalable_fastapi_system.web.conditional import has_current, weak_tag
from scalable_fastapi_system.web.envelope import request_id_of

_METHODS = frozenset({"GET", "HEAD"})
_VARY = b"Authorization, Cookie, X-API-Key"
_OK = 200
# Said anew for each answer, or no part of what was asked for.
_NOT_KEPT_HEADERS = frozenset({b"content-length", b"cache-control", b"etag", b"vary", b"date"})


def signature_of(cached: CachedFunction[Any, Any]) -> inspect.Signature:
    """The function's signature, with a Request and a Response for FastAPI to fill in where it has none itself."""
    signature = inspect.signature(cached.function)
    hints = annotations_of(cached.function)
    wanted = ((REQUEST_PARAMETER, Request), (RESPONSE_PARAMETER, Response))
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in wanted
        if not any(_is_kind(hints.get(parameter), kind) for parameter in signature.parameters)
    ]
    parameters = list(signature.parameters.values())
    at = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        at -= 1
    return signature.replace(parameters=[*parameters[:at], *added, *parameters[at:]])


async def answer(
    cached: CachedFunction[Any, Any], call: Call, request: Request, response: Response | None
) -> Any:
    """What the endpoint answers to this request."""
    if request.method not in _METHODS:
        return await cached.run(call)
    identity = (call.identity or caller_of(request)) if cached.is_per_user else None
    cache = cached.cache_for(request)
    request_id = request_id_of(request)
    shared = response if response is not None else _given_response(call)

    async def load() -> Loaded:
        before = _Aside.of(call, shared)
        result = await cached.run(call)
        if _Aside.of(call, shared).forbids_since(before, identity):
            raise UncacheableError(result)
        return _to_keep(result, request_id, identity)

    key = cached.key(call, identity, is_endpoint=True)
    entry = cache.fresh(key)
    if entry is None:
        try:
            entry = await cache.flights.entry(key, load, cached.recipe(cache, call, identity))
        except UncacheableError as passed:
            return passed.result
    is_private = identity is not None or (not cached.is_per_user and bool(credentials_of(request)))
    line, _, body = entry.payload.partition(b"\n")
    head = orjson.loads(line)
    headers = _headers(head, entry, cache, is_private=is_private, varies=cached.is_per_user or is_private)
    if has_current(request.headers.get("if-none-match"), head["etag"]):
        made = Response(status_code=304)
        made.raw_headers += headers
        return made
    kept = head.get("headers")
    if kept is None:  # a plain value: FastAPI makes the response, from its response model
        if shared is not None:
            shared.raw_headers += headers
        return decode(body)
    at = head["at"]
    if at is not None:
        body = body[:at] + (request_id or "").encode() + body[at:]
    made = Response(body)
    made.raw_headers += headers
    made.raw_headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept]
    return made


def _is_kind(hint: Any, kind: type) -> bool:
    if isinstance(hint, str):
        return hint.rpartition(".")[2] == kind.__name__
    return isinstance(hint, type) and issubclass(hint, kind)


def _given_response(call: Call) -> Response | None:
    return next((value for value in call.arguments.values() if isinstance(value, Response)), None)


@dataclass(frozen=True, slots=True)
class _Aside:
    """What is said beside the answer, on what FastAPI shares between an endpoint and its dependencies.

    status: of the shared response, None where nobody has set one.
    headers: of the shared response.
    tasks: how many are to run in the background after the answer.
    """

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    tasks: int

    @classmethod
    def of(cls, call: Call, response: Response | None) -> _Aside:
        """What has been said until now."""
        tasks = sum(
            len(value.tasks) for value in call.arguments.values() if isinstance(value, BackgroundTasks)
        )
        if response is None:
            return cls(None, (), tasks)
        return cls(response.status_code, tuple(response.raw_headers), tasks)

    def forbids_since(self, before: _Aside, identity: str | None) -> bool:
        """Whether the endpoint itself has said what only its own caller may get.

        What its dependencies have said is said for each request anew: they run for each.
        """
        if self.tasks > before.tasks or (self.status != before.status and self.status not in (None, _OK)):
            return True
        said = [(name, value) for name, value in self.headers if (name, value) not in before.headers]
        control = ", ".join(value.decode("latin-1") for name, value in said if name == b"cache-control")
        return any(name == b"set-cookie" for name, _ in said) or _is_forbidden(control, identity)


def _is_forbidden(control: str, identity: str | None) -> bool:
    """Whether this Cache-Control forbids to keep an answer to this caller."""
    control = control.lower()
    return "no-store" in control or (identity is None and "private" in control)


# -- keeping: a header line of JSON, then the body ------------------------------------------------------------


def _to_keep(result: Any, request_id: str | None, identity: str | None) -> Loaded:
    if not isinstance(result, Response):
        body = encode(result)
        return Loaded(orjson.dumps({"etag": weak_tag(body)}) + b"\n" + body, is_negative=result is None)
    own_control = result.headers.get("cache-control", "")
    if (
        result.status_code != _OK
        or isinstance(result, StreamingResponse | FileResponse)
        or not isinstance(result.body, bytes)
        or result.background is not None
        or "set-cookie" in result.headers
        or _is_forbidden(own_control, identity)
    ):
        raise UncacheableError(result)
    body, at = _without_id(result, request_id)
    head = {
        "etag": result.headers.get("etag") or weak_tag(body),
        "at": at,
        "control": own_control or None,
        "vary": result.headers.get("vary"),
        "headers": [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in result.raw_headers
            if name not in _NOT_KEPT_HEADERS
        ],
    }
    return Loaded(orjson.dumps(head) + b"\n" + body)


def _without_id(result: Response, request_id: str | None) -> tuple[bytes, int | None]:
    """The body without the envelope's request id, and where that belongs. Raises UncacheableError where it is not clear."""
    body = bytes(result.body)
    if not request_id:
        return body, None
    member = f'"request_id":"{request_id}"'.encode()
    times = body.count(member)
    if times == 0:
        return body, None
    if times > 1:
        raise UncacheableError(result)
    at = body.index(member) + len(member) - len(request_id) - 1
    return body[:at] + body[at + len(request_id) :], at


# -- answering ------------------------------------------------------------------------------------------------


def _headers(
    head: dict[str, Any], entry: Entry, cache: CacheManager, *, is_private: bool, varies: bool
) -> list[tuple[bytes, bytes]]:
    control = head.get("control") or _control(entry, cache, is_private)
    headers = [(b"etag", head["etag"].encode("latin-1")), (b"cache-control", control.encode("latin-1"))]
    own = head.get("vary")
    if own:
        headers.append((b"vary", own.encode("latin-1")))
    if varies:
        headers.append((b"vary", _VARY))
    return headers


def _control(entry: Entry, cache: CacheManager, is_private: bool) -> str:
    if is_private:
        return "private, no-cache"
    left = entry.fresh_until - cache.now()
    return f"public, max-age={math.ceil(left)}" if left > 0 else "public, no-cache"
