"""The HTTP side of `cache_response`: what an endpoint with it answers.

Kept are the bytes of a whole response with status 200: one that the endpoint returned, or what FastAPI makes of its
result by the route's response model. Not kept: other statuses, streams, files, answers that set cookies, start
background work, differ by what no key has (their own Vary) or forbid it by their own Cache-Control, be it on a
response that is returned or on what FastAPI hands the endpoint; and nothing but GET and HEAD is looked up.

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
from fastapi.datastructures import DefaultPlaceholder
from fastapi.responses import FileResponse, Response, StreamingResponse
from fastapi.routing import APIRoute, iter_route_contexts, serialize_response
from starlette.background import BackgroundTasks
from starlette.requests import Request

from scalable_fastapi_system.infra.cache.call_keys import (
    CREDENTIALS,
    Call,
    annotations_of,
    caller_of,
    credentials_of,
)
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
_CREDENTIALS = frozenset(name.decode() for name in CREDENTIALS)
_OK = 200
# Said on the response that FastAPI hands over, they are the answer's own, as on a response that is returned.
_OWN_HEADERS = frozenset({b"cache-control", b"etag", b"vary"})
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
        after = _Aside.of(call, shared)
        if after.forbids_since(before):
            raise UncacheableError(result)
        if isinstance(result, Response):
            return _to_keep(result, result, request_id, identity, is_per_user=cached.is_per_user)
        route = request.scope.get("route")
        if not isinstance(route, APIRoute) or route.status_code not in (None, _OK):
            raise UncacheableError(result)
        own = [said for said in after.said_since(before) if said[0] in _OWN_HEADERS]
        made = await _rendered(request, route, result)
        made.raw_headers += own
        kept = _to_keep(result, made, request_id, identity, is_per_user=cached.is_per_user)
        if shared is not None:
            shared.raw_headers[:] = [said for said in shared.raw_headers if said not in own]
        return kept

    path = _path_of(cached, call, request)
    key = cached.key(call, identity, path=path)
    entry = cache.fresh(key)
    if entry is None:
        try:
            entry = await cache.flights.entry(key, load, cached.recipe(cache, call, identity, path=path))
        except UncacheableError as passed:
            return passed.result
    is_private = identity is not None or (not cached.is_per_user and bool(credentials_of(request)))
    line, _, body = entry.payload.partition(b"\n")
    head = orjson.loads(line)
    headers = _headers(head, entry, cache, is_private=is_private, varies=cached.is_per_user or is_private)
    # What dependencies say beside a plain result is part of the answer; beside a response FastAPI leaves it out.
    beside = shared if head["is_plain"] else None
    if beside is not None and "cache-control" in beside.headers:
        headers = [header for header in headers if header[0] != b"cache-control"]
    if has_current(request.headers.get("if-none-match"), head["etag"]):
        made = Response(status_code=304)
        made.raw_headers += headers
        return made
    at = head["at"]
    if at is not None:
        body = body[:at] + (request_id or "").encode() + body[at:]
    made = Response(body)
    made.raw_headers += headers
    made.raw_headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
    if beside is not None:
        made.status_code = beside.status_code or _OK
        made.raw_headers += beside.raw_headers
    return made


def _path_of(cached: CachedFunction[Any, Any], call: Call, request: Request) -> str:
    """The path that was asked for, without what the arguments tell: `/books/1` and `/books/01` are one entry.

    As it came where nobody has looked for its template: outside of our middleware, and below a mount.
    """
    scope = request.scope
    exchange = (scope.get("state") or {}).get("exchange")
    if exchange is None or exchange.facts.endpoint is not scope.get("endpoint"):
        return str(scope["path"])
    untold = [
        (name, value) for name, value in scope["path_params"].items() if not cached.has_value_of(name, call)
    ]
    return f"{scope.get('root_path', '')}{exchange.facts.template}{untold or ''}"


async def _rendered(request: Request, route: APIRoute, result: Any) -> Response:
    """What FastAPI answers with this result: through the response model, by the options of the route."""
    kind: Any = _response_class(request, route)
    is_json = route.response_field is not None and isinstance(kind, DefaultPlaceholder)
    content = await serialize_response(
        field=route.response_field,
        response_content=result,
        include=route.response_model_include,
        exclude=route.response_model_exclude,
        by_alias=route.response_model_by_alias,
        exclude_unset=route.response_model_exclude_unset,
        exclude_defaults=route.response_model_exclude_defaults,
        exclude_none=route.response_model_exclude_none,
        dump_json=is_json,
    )
    if is_json:
        return Response(content, media_type="application/json")
    made: Response = (kind.value if isinstance(kind, DefaultPlaceholder) else kind)(content)
    return made


def _response_class(request: Request, route: APIRoute) -> Any:
    """The route's, or that which it takes over from where its router was included."""
    found = iter_route_contexts(request.app.router.routes)
    return next(
        (context.response_class for context in found if context.original_route is route), route.response_class
    )


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

    def forbids_since(self, before: _Aside) -> bool:
        """Whether the endpoint itself has said what only its own caller may get.

        What its dependencies have said is said for each request anew: they run for each.
        """
        if self.tasks > before.tasks or (self.status != before.status and self.status not in (None, _OK)):
            return True
        return any(name == b"set-cookie" for name, _ in self.said_since(before))

    def said_since(self, before: _Aside) -> list[tuple[bytes, bytes]]:
        """The headers that the endpoint itself has set."""
        return [said for said in self.headers if said not in before.headers]


def _is_forbidden(control: str, identity: str | None) -> bool:
    """Whether this Cache-Control forbids to keep an answer to this caller."""
    control = control.lower()
    return "no-store" in control or (identity is None and "private" in control)


# -- keeping: a header line of JSON, then the body ------------------------------------------------------------


def _to_keep(
    result: Any, made: Response, request_id: str | None, identity: str | None, *, is_per_user: bool
) -> Loaded:
    """The response that was made of the result. Raises UncacheableError, with the result, for one that must not be kept."""
    own_control = made.headers.get("cache-control", "")
    if (
        made.status_code != _OK
        or isinstance(made, StreamingResponse | FileResponse)
        or not isinstance(made.body, bytes)
        or made.background is not None
        or "set-cookie" in made.headers
        or _is_forbidden(own_control, identity)
        or not _varies_by(made) <= _known_by(identity, is_per_user=is_per_user)
    ):
        raise UncacheableError(result)
    body, at = _without_id(made, request_id)
    if body is None:
        raise UncacheableError(result)
    head = {
        "etag": made.headers.get("etag") or weak_tag(body),
        "at": at,
        "control": own_control or None,
        "vary": made.headers.get("vary"),
        "is_plain": made is not result,
        "headers": [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in made.raw_headers
            if name not in _NOT_KEPT_HEADERS
        ],
    }
    return Loaded(orjson.dumps(head) + b"\n" + body, is_negative=result is None)


def _varies_by(made: Response) -> set[str]:
    """The request headers that the answer says it depends on."""
    said = ",".join(made.headers.getlist("vary")).lower()
    return {name.strip() for name in said.split(",")} - {""}


def _known_by(identity: str | None, *, is_per_user: bool) -> frozenset[str]:
    """The request headers whose values the key has by the caller's identity."""
    if not is_per_user:
        return frozenset()
    is_all = identity is None or identity.startswith("credentials:")  # a principal may have any cookie
    return _CREDENTIALS if is_all else _CREDENTIALS - {"cookie"}


def _without_id(made: Response, request_id: str | None) -> tuple[bytes | None, int | None]:
    """The body without the envelope's request id, and where that belongs; None where it is not clear."""
    body = bytes(made.body)
    if not request_id:
        return body, None
    member = f'"request_id":"{request_id}"'.encode()
    times = body.count(member)
    if times == 0:
        return body, None
    if times > 1:
        return None, None
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
