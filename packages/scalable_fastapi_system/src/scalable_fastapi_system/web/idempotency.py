"""`Idempotency-Key`: a POST that is sent twice is done once, and answered the same.

After the IETF's draft "The Idempotency-Key HTTP Header Field". The first request with a key runs; its answer is stored
in its own transaction, so that there is no effect without the answer and no answer without the effect. The same
request again gets that answer, with `Idempotency-Replayed: true`. While the first one runs others get 409, another
request under the same key gets 422. What failed and was rolled back leaves nothing, and may be sent again.

Keys are taken by every POST whose endpoint writes by `Transaction` (or is marked `idempotent` and writes by
`request_transaction`), but not where the answer carries secrets: those are never stored. Elsewhere a key is refused,
below a mount too, for a promise that is not kept is worse than none. A request without the header costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import structlog
from fastapi import FastAPI
from fastapi.security.base import SecurityBase
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scalable_fastapi_system.infra import idempotency as keys
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.idempotency import Held, KeptAnswer
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import APIException
from scalable_fastapi_system.web.dependencies import SHARED_TRANSACTION, SharedTransaction, get_transaction
from scalable_fastapi_system.web.idempotency_body import RequestBody
from scalable_fastapi_system.web.limits import IDEMPOTENT_ATTRIBUTE
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.route_table import RouteFacts

_log = structlog.get_logger("api.idempotency")

HEADER = "Idempotency-Key"
REPLAYED = (b"idempotency-replayed", b"true")
MAX_KEY_LENGTH = 255
MAX_ANSWER_BYTES = 256 * 1024
_RENEW_SECONDS = keys.LEASE_SECONDS / 3
# Said anew by each answer, or somebody's alone.
_NOT_KEPT = frozenset(
    {b"date", b"server", b"connection", b"transfer-encoding", b"set-cookie", b"x-request-id"}
)

_NOT_TAKEN = f"No {HEADER} is taken here. Send the request without it"

Authority = Callable[[Scope], Awaitable[str | None]]


class IdempotencyKeys:
    """The keys of one application. `authority` names who calls and what they may do, None for nobody known."""

    def __init__(self, database: DatabaseManager, settings: Settings, authority: Authority) -> None:
        self._database = database
        self._authority = authority
        security = settings.security
        self._secrets = [key.encode() for key in (security.secret_key, *security.previous_secret_keys)]
        self._rules: dict[RouteFacts, _Rule] = {}

    def around(self, app: ASGIApp, facts: RouteFacts, header: bytes) -> ASGIApp:
        """The application for one request that sent a key. What is wrong with the key is raised when it is called."""

        async def once(scope: Scope, receive: Receive, send: Send) -> None:
            await self._run(app, facts, header, scope, receive, send)

        return once

    def beside_endpoints(self, app: ASGIApp, owner: FastAPI) -> ASGIApp:
        """The application behind the pass, which is called where the pass knows no endpoint for the request, among others.

        It refuses the key of a POST that something else would answer: a mount, a host's application, an endpoint class.
        """

        def refuse_or_call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            if scope["type"] == "http" and scope["method"] == "POST":
                exchange = scope["state"]["exchange"]
                if (
                    exchange.idempotency_key is not None
                    and "POST" not in exchange.facts.methods
                    and _is_answered_without_keys(owner, scope)
                ):
                    raise _not_taken()
            return app(scope, receive, send)

        return refuse_or_call

    async def _run(
        self, app: ASGIApp, facts: RouteFacts, header: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        rule = self._rules.get(facts)
        if rule is None:
            rule = self._rules[facts] = _Rule(facts)
        if rule.refusal is not None:
            raise _not_taken(rule.refusal)
        key = read_key(header)
        authority = await self._authority(scope)
        if authority is None:
            if rule.needs_caller:
                await app(scope, receive, send)  # it says 401
                return
            authority = f"anyone:{_digest(*_cookies(scope))}"
        digest = _digest(authority.encode(), facts.template.encode(), key)
        body = RequestBody(scope, receive)
        holder = uuid4()
        found = await keys.claim(self._database, digest=digest, holder=holder)
        if isinstance(found, Held):
            raise APIException(
                "A request with this Idempotency-Key is being worked on: send it again later for its answer",
                409,
                "IDEMPOTENCY_KEY_IN_USE",
                headers={"Retry-After": str(found.retry_after_seconds)},
            )
        if found is not None:
            await body.drain()
            if not self._is_of(found, body):
                raise APIException(
                    "This Idempotency-Key was used for another request: take a new key for each",
                    422,
                    "IDEMPOTENCY_KEY_REUSED",
                )
            await _replay(found, send)
            return
        attempt = _Attempt(self._database, digest, holder, body, send, self._sign)
        await attempt.run(app, scope)

    def _sign(self, body: RequestBody) -> str:
        """Keyed, because a body may hold a password: the fingerprint must not help to guess it."""
        return hmac.new(self._secrets[0], body.digest(), hashlib.sha256).hexdigest()

    def _is_of(self, answer: KeptAnswer, body: RequestBody) -> bool:
        digest = body.digest()
        return any(
            hmac.compare_digest(hmac.new(key, digest, hashlib.sha256).hexdigest(), answer.fingerprint)
            for key in self._secrets
        )


class _Rule:
    """What holds for one route. `refusal`: why it takes no keys, None where it does."""

    __slots__ = ("needs_caller", "refusal")

    def __init__(self, facts: RouteFacts) -> None:
        route = facts.route  # None for one of Starlette's own, of which nobody knows how it writes
        calls = list(_dependencies(route.dependant)) if route is not None else []
        self.needs_caller = any(isinstance(call, SecurityBase) for call in calls)
        self.refusal: str | None = None
        if facts.carries_secrets:
            self.refusal = (
                f"No {HEADER} is taken here: the answer, or the request, holds a secret, which is not stored. "
                "Send the request without it"
            )
        elif route is None or not takes_keys(route):
            self.refusal = _NOT_TAKEN


class _Attempt:
    """One execution under a claimed key: the transaction that the endpoint writes in, and the answer as it is made."""

    def __init__(
        self,
        database: DatabaseManager,
        digest: str,
        holder: UUID,
        body: RequestBody,
        send: Send,
        sign: Callable[[RequestBody], str],
    ) -> None:
        self._database = database
        self._digest = digest
        self._holder = holder
        self._body = body
        self._send = send
        self._sign = sign
        self._transaction = database.transaction()
        self._shared: SharedTransaction | None = None
        self._start: Message | None = None
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._is_over = False
        self._failure: BaseException | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        self._shared = scope["state"][SHARED_TRANSACTION] = SharedTransaction(
            await self._transaction.__aenter__()
        )
        renewal = asyncio.create_task(self._renew())
        try:
            await app(scope, self._body.receive, self.send)
        except BaseException as error:
            await self._give_up()
            if self._failure is not None and self._failure is not error:
                raise self._failure from None
            raise
        finally:
            renewal.cancel()
            scope["state"].pop(SHARED_TRANSACTION, None)
        await self._give_up()  # an application that ended without an answer

    async def send(self, message: Message) -> None:
        """Holds the answer back until it is stored; a failure's answer goes out once everything is undone."""
        if message["type"] == "http.response.start" and not self._has_effect(message["status"]):
            await self._give_up()
        if self._is_over:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            piece = message.get("body", b"")
            self._pieces.append(piece)
            self._size_bytes += len(piece)
            is_last = not message.get("more_body", False)
            if self._size_bytes > MAX_ANSWER_BYTES or is_last:
                try:
                    await self._keep()
                except BaseException as error:
                    self._failure = error  # the framework replaces what is raised after an answer's beginning
                    raise

    def _has_effect(self, status: int) -> bool:
        """Whether this answer stands for something done: a failure does only where the endpoint gave it as its answer."""
        shared = self._shared
        if shared is None or shared.has_failed:
            return False
        return status < 400 or shared.is_to_commit

    async def _keep(self) -> None:
        start, shared = self._start, self._shared
        assert start is not None and shared is not None  # noqa: S101, PT018 - ASGI: a body follows its start
        if self._size_bytes > MAX_ANSWER_BYTES:
            raise APIException(
                f"The answer is larger than the {MAX_ANSWER_BYTES} bytes that can be kept under an {HEADER}: "
                "nothing was done; send the request without it",
                400,
                "IDEMPOTENCY_KEY_NOT_TAKEN",
            )
        await self._body.drain()
        body = b"".join(self._pieces)
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in start.get("headers", ())
            if name.lower() not in _NOT_KEPT
        ]
        answer = KeptAnswer(start["status"], headers, body, self._sign(self._body))
        if not await keys.keep(shared.session, answer, digest=self._digest, holder=self._holder):
            raise APIException(
                "The request took so long that another one with its Idempotency-Key was begun: nothing was done",
                409,
                "IDEMPOTENCY_KEY_IN_USE",
                headers={"Retry-After": "1"},
            )
        self._shared = None
        await self._transaction.__aexit__(None, None, None)  # the commit
        self._is_over = True
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    async def _give_up(self) -> None:
        """Undoes what was written and gives the key back, so that the request may be sent again."""
        if self._is_over:
            return
        self._is_over = True
        if self._shared is not None:
            self._shared = None
            undo = _UndoneError()
            await self._transaction.__aexit__(type(undo), undo, None)
        try:
            await keys.release(self._database, digest=self._digest, holder=self._holder)
        except Exception as error:  # noqa: BLE001 - the key is free when its lease has ended
            _log.warning("idempotency key not released", reason=type(error).__name__)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            if self._is_over:  # the cancel was lost (see infra/ending.py)
                return
            try:
                await keys.renew(self._database, digest=self._digest, holder=self._holder)
            except Exception as error:  # noqa: BLE001 - whoever takes the key over keeps this one from committing
                _log.warning("idempotency key not renewed", reason=type(error).__name__)


class _UndoneError(Exception):
    """Thrown into a transaction to roll it back."""


async def _replay(answer: KeptAnswer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, REPLAYED]})
    await send({"type": "http.response.body", "body": answer.body})


def read_key(header: bytes) -> bytes:
    """The key of the header, which the draft writes as a string in quotes and most clients without.

    Raises APIException (400) for what cannot be one.
    """
    key = header.strip()
    if len(key) >= 2 and key.startswith(b'"') and key.endswith(b'"'):
        key = key[1:-1]
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not all(0x21 <= letter <= 0x7E for letter in key):
        raise APIException(
            f"An {HEADER} has 1 to {MAX_KEY_LENGTH} visible ASCII characters and no spaces, such as a UUID",
            400,
            "IDEMPOTENCY_KEY_MALFORMED",
        )
    return key


def _not_taken(message: str = _NOT_TAKEN) -> APIException:
    return APIException(message, 400, "IDEMPOTENCY_KEY_NOT_TAKEN")


def _is_answered_without_keys(owner: FastAPI, scope: Scope) -> bool:
    """Whether the router has something for this request; nothing is a 404 or a 405, an application of the platform knows keys."""
    for route in owner.router.routes:
        if route.matches(scope)[0] is Match.FULL:
            return not isinstance(getattr(route, "app", None), PlatformAPI)
    return False


def takes_keys(route: Any) -> bool:
    """Whether the endpoint of this route writes its effect where the answer can be stored with it."""
    if getattr(route.endpoint, IDEMPOTENT_ATTRIBUTE, False):
        return True
    return any(call is get_transaction for call in _dependencies(route.dependant))


def _dependencies(dependant: Any) -> Iterator[Any]:
    yield dependant.call
    for one in dependant.dependencies:
        yield from _dependencies(one)


def _cookies(scope: Scope) -> Sequence[bytes]:
    """An application may know its callers by a cookie of its own: then each of them has keys of their own."""
    return [value for name, value in scope["headers"] if name == b"cookie"]


def _digest(*parts: bytes) -> str:
    joined = hashlib.sha256()
    for part in parts:
        joined.update(len(part).to_bytes(4, "big") + part)
    return joined.hexdigest()
