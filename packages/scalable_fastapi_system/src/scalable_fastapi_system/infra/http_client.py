"""Calls to services outside: a deadline on everything, few retries, a circuit breaker, and no way inside.

Promises: no call outlives its deadline, retries included; only calls that may be repeated are; at most the
budgeted share of calls is repeated; an open breaker answers at once; the address that was checked is the one
that is connected to, so a name that changes its mind (DNS rebinding) gains nothing; redirects are not followed; an
answer that is too long, or grows too long when it is unpacked, is not read to its end, and no more of it is unpacked;
no cookie that a service sets is sent with a later call, which may be another user's.
Raises `OutboundError` and its kin, whose messages carry no credentials.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpcore
import httpx
import structlog

from scalable_fastapi_system.infra.addresses import is_public
from scalable_fastapi_system.infra.resilience import CircuitBreaker, CircuitOpenError, RetryBudget
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.tracing import current_traceparent
from scalable_fastapi_system.infra.unpacking import (
    ACCEPT_ENCODING,
    PART_BYTES,
    DamagedBodyError,
    UnknownEncodingError,
    Unpacker,
)

_log = structlog.get_logger("http_client")

_REPEATABLE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_REPEATABLE_STATUS = frozenset({429, 502, 503, 504})
_BACKOFF_BASE_SECONDS = 0.1
_BACKOFF_CEILING_SECONDS = 5.0
_MAX_BREAKERS = 1000
MAX_ANSWER_BYTES = 10 * 1024 * 1024
_MAX_PORT = 65_535


class OutboundError(Exception):
    """A call to the outside did not get an answer."""


class OutboundTimeoutError(OutboundError):
    """The deadline passed."""


class OutboundTooLargeError(OutboundError):
    """The answer is longer than the caller takes. Nothing of it is kept."""


class OutboundEncodingError(OutboundError):
    """The answer is packed in another way than was asked for (gzip or deflate, once). Nothing of it is kept."""


class OutboundRefusedError(OutboundError):
    """The call was not made: it is none, its target is not one that may be reached from here, or its breaker is open."""


class HttpClient:
    """One per process and loop. `async with` it, or `await close()` at the end."""

    def __init__(self, settings: Settings, *, timeout_seconds: float | None = None) -> None:
        options = settings.http_client
        self._deadline_seconds = timeout_seconds or options.timeout_seconds
        self._max_retries = options.max_retries
        self._budget = RetryBudget(options.retry_budget_ratio)
        self._breakers: dict[tuple[str, str], CircuitBreaker] = {}  # by host, and who chose it
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        tls = httpx.create_ssl_context()
        transport = httpx.AsyncHTTPTransport(verify=tls, retries=0, trust_env=False)
        # httpx offers no way to hand in the part that connects; its pool is made again with ours.
        transport._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=100,
            keepalive_expiry=30.0,
            network_backend=_GuardedBackend(allow_private=options.allow_private_addresses),
        )
        self._client = httpx.AsyncClient(
            transport=transport,
            headers={"Accept-Encoding": ACCEPT_ENCODING},
            follow_redirects=False,
            timeout=None,  # noqa: S113 - each call has its deadline, which may be longer than the default
            trust_env=False,
        )
        # One client serves all users: what a service sets for one must not be sent for another.
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        timeout_seconds: float | None = None,
        is_repeatable: bool | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
        wants_body: bool = True,
        on_behalf_of: str = "",
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """One call with its retries; any status is an answer. Where the caller is traced, so is the call: by `traceparent`.

        is_repeatable: whether doing it twice does no harm; by default by its method. A POST with an
        idempotency key is; a body that comes from an iterator is sent once in any case. max_bytes: of the
        answer's body, unpacked. wants_body: False where status and headers are all that counts: then the body is
        not read, and empty. on_behalf_of: who chose the service, where it is not we: the breaker of a host is theirs
        alone, and what they have there closes it to nobody else. content: `json`, `content`, `data` or `params`, as httpx takes them.
        """
        sent_headers = dict(headers or {})
        traceparent = current_traceparent()
        if traceparent is not None:
            sent_headers.setdefault("traceparent", traceparent)
        may_repeat = method.upper() in _REPEATABLE_METHODS if is_repeatable is None else is_repeatable
        target = _target(url)
        name = f"{target.host}:{target.port or target.scheme}"
        breaker = self._breaker(name, on_behalf_of)
        try:
            request = self._client.build_request(method, target, headers=sent_headers, **content)
            may_repeat = may_repeat and isinstance(request.stream, httpx.ByteStream)  # its body is kept
            limit = max_bytes if wants_body else None
            async with asyncio.timeout(timeout_seconds or self._deadline_seconds) as deadline:
                return await self._with_retries(breaker, may_repeat, request, limit, deadline.when() or 0.0)
        except TimeoutError as error:
            raise OutboundTimeoutError(f"{name} did not answer within the deadline") from error

    async def _with_retries(
        self,
        breaker: CircuitBreaker,
        may_repeat: bool,
        request: httpx.Request,
        max_bytes: int | None,
        ends_at: float,
    ) -> httpx.Response:
        self._budget.note_call()
        attempt = 0
        while True:
            response: httpx.Response | None = None
            failure: OutboundError | None = None
            try:
                response = await self._once(breaker, request, max_bytes)
                if response.status_code not in _REPEATABLE_STATUS:
                    return response
            except (OutboundRefusedError, OutboundTooLargeError, OutboundEncodingError):
                raise
            except OutboundError as error:
                failure = error
            attempt += 1
            pause = self._pause_seconds(attempt, response)
            # A pause that the deadline does not leave room for: the caller learns now what there is to know.
            has_time = asyncio.get_running_loop().time() + pause < ends_at
            if not may_repeat or attempt > self._max_retries or not has_time or not self._budget.take():
                if response is not None:
                    return response
                raise failure or OutboundError("no answer")
            await asyncio.sleep(pause)
            _log.info("outbound call repeated", target=breaker.name, attempt=attempt)

    async def _once(
        self, breaker: CircuitBreaker, request: httpx.Request, max_bytes: int | None
    ) -> httpx.Response:
        try:
            breaker.before_call()
        except CircuitOpenError as error:
            raise OutboundRefusedError(str(error)) from error
        try:
            response = await self._answer(breaker.name, request, max_bytes)
        except (OutboundTooLargeError, OutboundEncodingError):
            breaker.succeeded()
            raise
        except _NotPublicError as error:
            breaker.abandoned()
            raise OutboundRefusedError(str(error)) from error
        except httpx.LocalProtocolError as error:  # a header with a line break, for one
            breaker.abandoned()
            raise OutboundRefusedError(f"{breaker.name}: this request cannot be sent") from error
        except (httpx.HTTPError, httpcore.NetworkError, DamagedBodyError, OSError) as error:
            breaker.failed()
            raise OutboundError(f"{breaker.name}: {type(error).__name__}") from error
        except Exception:  # the caller's own: its body raises, or is not as long as it says
            breaker.abandoned()
            raise
        except BaseException:
            # Cancelled, by the deadline or by the caller: the deadline is the service's doing.
            breaker.failed()
            raise
        if response.status_code >= 500:
            breaker.failed()
        else:
            breaker.succeeded()
        return response

    async def _answer(self, name: str, request: httpx.Request, max_bytes: int | None) -> httpx.Response:
        response = await self._client.send(request, stream=True)
        try:
            # as its own `aread` would
            response._content = b"" if max_bytes is None else await _read(name, response, max_bytes)
        finally:
            await response.aclose()
        return response

    def _pause_seconds(self, attempt: int, response: httpx.Response | None) -> float:
        """Exponential with full jitter; at least what the service asked for."""
        ceiling = min(_BACKOFF_CEILING_SECONDS, _BACKOFF_BASE_SECONDS * 2**attempt)
        pause = self._random.uniform(0, ceiling)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        return max(pause, float(asked)) if asked.isdecimal() else pause

    def _breaker(self, name: str, on_behalf_of: str) -> CircuitBreaker:
        key = (name, on_behalf_of)
        found = self._breakers.get(key)
        if found is None:
            if len(self._breakers) >= _MAX_BREAKERS:
                self._breakers.pop(next(iter(self._breakers)))
            found = self._breakers[key] = CircuitBreaker(name)
        return found


def _target(url: str) -> httpx.URL:
    """Raises OutboundRefusedError, which does not repeat the address: it may hold credentials."""
    try:
        target = httpx.URL(url)
        host = target.host
    except (httpx.InvalidURL, UnicodeError) as error:  # the second for a host that IDNA cannot read
        raise OutboundRefusedError("this is no address that can be called") from error
    if target.scheme not in {"http", "https"} or not host:
        raise OutboundRefusedError("only http and https addresses can be called")
    if (target.port or 0) > _MAX_PORT:
        raise OutboundRefusedError(f"there is no port {target.port}")
    return target


async def _read(name: str, response: httpx.Response, max_bytes: int) -> bytes:
    """The body. httpx would unpack a whole piece from the network, to any length, before anybody can count."""
    body = bytearray()
    received = 0
    unpacker: Unpacker | None = None
    async for piece in response.aiter_raw():
        if unpacker is None:  # not before: the answer to a HEAD names an encoding and has no body
            unpacker = _unpacker(name, response)
        received += len(piece)
        for part in unpacker.parts(piece):
            body += part
            if len(body) > max_bytes:
                raise OutboundTooLargeError(f"{name}: the answer is longer than {max_bytes} bytes")
        # What is packed may be a little longer than what it holds; one that never holds anything has to end, too.
        if received > 2 * max_bytes + PART_BYTES:
            raise OutboundTooLargeError(f"{name}: the answer is longer than {max_bytes} bytes")
    if unpacker is not None:
        unpacker.finish()
    return bytes(body)


def _unpacker(name: str, response: httpx.Response) -> Unpacker:
    try:
        return Unpacker(response.headers.get_list("content-encoding", split_commas=True))
    except UnknownEncodingError as error:
        raise OutboundEncodingError(
            f"{name}: the answer is packed in a way that is not understood"
        ) from error


class _NotPublicError(Exception):
    pass


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that were resolved and checked here, and to exactly those."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        # httpcore picks anyio's implementation for asyncio; naming it keeps trio out.
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await _resolve(host, port)
        if not self._allow_private and not all(is_public(address) for address in addresses):
            # One private address among public ones is an attack, not a choice.
            raise _NotPublicError(f"{host} is not an address of the public internet")
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except (OSError, httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise httpcore.ConnectError(f"no address of {host} answers") from failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise _NotPublicError("unix sockets are not called from here")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the second for a label that is empty or too long
        raise httpcore.ConnectError(f"{host} has no address") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))
