"""The 503 of a full process, made from the bytes of a request before anything else is done for it.

At three times what a process can do, two of three requests are refused: what a refusal costs is taken from those that are
served. The middleware's costs half as much as a read of one row, this one about a twentieth. So it is given only to a request
whose bytes leave no doubt: one whole request and nothing after it, with its length told at most once. Whatever else comes
(chunked bodies, `Origin`, HEAD, HTTP/1.0, escapes in the path …), probes and scrapes are left to the parser and the
middleware, which refuses in the same words. Refused requests are counted like all others; the log has one line a second for all.
"""

from __future__ import annotations

import asyncio
import re
from contextvars import Context

import structlog

from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from scalable_fastapi_system.kit.ids import is_request_id, new_request_id
from scalable_fastapi_system.web.envelope import to_json
from scalable_fastapi_system.web.problems import MEDIA_TYPE, problem_body
from scalable_fastapi_system.web.room import Room
from scalable_fastapi_system.web.route_table import RouteTable
from scalable_fastapi_system.web.security_headers import API_POLICY

NO_ROOM = "The service is at its limit; try again shortly"
RETRY_AFTER_SECONDS = 1
_TELL_SECONDS = 1.0
_MOST_LINES = 1024
_MOST_KNOWN, _KNOWN_BYTES = 1024, 4096
_OWN_ID_BYTES = 32
_FIRST_LINE = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[!-$&->@-~]*)(?:\?[!-~]*)? HTTP/1\.1\r\n")
# Headers that make a request more than its bytes tell, folded lines, and a connection that is to end.
_DOUBTFUL = re.compile(
    rb"\r\n(?:[ \t]|(?:transfer-encoding|origin|expect|upgrade|te|trailer)[ \t]*:|connection:(?![ \t]*keep-alive\r\n))",
    re.IGNORECASE,
)
_TOLD = re.compile(rb"\r\n(content-length|x-request-id):[ \t]*([!-~]*)[ \t]*(?=\r\n)", re.IGNORECASE)
_log = structlog.get_logger("api.request")


def no_room() -> ServiceUnavailableException:
    """The same refusal, as the middleware gives it."""
    return ServiceUnavailableException(NO_ROOM, retry_after_seconds=RETRY_AFTER_SECONDS)


class _Refused:
    """What all refusals of one method and path have in common."""

    __slots__ = ("_after", "_before", "_middle", "count", "method", "template")

    def __init__(self, method: str, template: str, before: bytes, after: bytes) -> None:
        """before, after: the body's bytes around the request id."""
        self.method = method
        self.template = template
        self._before = before
        self._after = after
        self._middle = self._between(_OWN_ID_BYTES)
        self.count = 0

    def _between(self, id_bytes: int) -> bytes:
        length = len(self._before) + id_bytes + len(self._after)
        return b"\r\ncontent-length: %d\r\n\r\n%s" % (length, self._before)

    def answer(self, first_lines: bytes, request_id: bytes) -> bytes:
        """first_lines: up to the value of the last header but one, which is the request id."""
        middle = self._middle if len(request_id) == _OWN_ID_BYTES else self._between(len(request_id))
        return b"".join((first_lines, request_id, middle, request_id, self._after))


class Refusals:
    """Refuses while `room` is full. One a process."""

    def __init__(
        self,
        room: Room,
        routes: RouteTable,
        metrics: MetricsManager | None,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        """headers: those that every answer carries."""
        self.room = room
        self._routes = routes
        self._metrics = metrics
        # By first line. Emptied every second, when what was refused is counted and told.
        self._refused: dict[bytes, _Refused] = {}
        # By the whole of a request: who is refused asks again in the same words.
        self._known: dict[bytes, _Refused] = {}
        self._untold = 0
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        lines = [
            *headers,
            (b"content-security-policy", API_POLICY.encode()),
            (b"cache-control", b"no-store"),
            (b"content-type", MEDIA_TYPE.encode()),
            (b"retry-after", b"%d" % RETRY_AFTER_SECONDS),
        ]
        self._headers = b"".join(b"%s: %s\r\n" % line for line in lines)
        self._first_lines = b""

    def may_refuse(self, data: bytes) -> bool:
        """Whether these bytes begin a request that a full process refuses: not a probe, and no strange first line."""
        line = data[: data.find(b"\r\n") + 2]
        return line in self._refused or self._read(line) is not None

    def refuse(self, data: bytes, default_headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """The answer to the request that these bytes are; None where that is not for this place to say."""
        refused = self._known.get(data)
        inbound_id = b""
        if refused is None:
            found = self._judge(data)
            if found is None:
                return None
            refused, inbound_id = found
            if not inbound_id and len(data) <= _KNOWN_BYTES and len(self._known) < _MOST_KNOWN:
                self._known[data] = refused
        refused.count += 1
        request_id = inbound_id or new_request_id().encode()
        if default_headers is not self._default_headers:  # another list with each second, for its date
            self._default_headers = default_headers
            defaults = b"".join(b"%s: %s\r\n" % header for header in default_headers)
            self._first_lines = b"HTTP/1.1 503 Service Unavailable\r\n%s%sx-request-id: " % (
                defaults,
                self._headers,
            )
        return refused.answer(self._first_lines, request_id)

    def _judge(self, data: bytes) -> tuple[_Refused, bytes] | None:
        """What refuses these bytes, and the request id that they bring, if any."""
        first_end = data.find(b"\r\n") + 2
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = data[first_end - 2 : end + 2]
        if _DOUBTFUL.search(head) is not None or head.count(b"\n") != head.count(b"\r\n") or b"\0" in head:
            return None
        found = _TOLD.findall(head)
        told = {name.lower(): value for name, value in found}
        lengths = head.lower().count(b"content-length")  # however it is written
        if len(told) != len(found) or lengths != (b"content-length" in told):
            return None
        length = told.get(b"content-length", b"0")
        if not length.isdigit() or end + 4 + int(length) != len(data):
            return None
        line = data[:first_end]
        refused = self._refused.get(line) or self._begin(line)
        if refused is None:
            return None
        inbound_id = told.get(b"x-request-id", b"")
        return refused, inbound_id if is_request_id(inbound_id.decode()) else b""

    def _read(self, line: bytes) -> tuple[str, str, str] | None:
        """Method, path and the route's template of a first line; None for a probe's, and for one that leaves a doubt."""
        first = _FIRST_LINE.fullmatch(line)
        if first is None:
            return None
        method, path = first[1].decode(), first[2].decode()
        facts, _ = self._routes.find(method, path)
        return None if facts.is_probe else (method, path, facts.template)

    def _begin(self, line: bytes) -> _Refused | None:
        told = self._read(line)
        if told is None:
            return None
        method, path, template = told
        error = no_room()
        mark = new_request_id()
        body = to_json(
            problem_body(
                status=error.status_code,
                message=error.message,
                error_code=error.error_code,
                title=error.title,
                path=path,
                request_id=mark,
            )
        )
        before, _, after = body.partition(mark.encode())
        if not self._refused:
            # The line is of all who were refused, not of the request whose connection was read from here.
            asyncio.get_running_loop().call_later(_TELL_SECONDS, self._tell, context=Context())
        elif len(self._refused) >= _MOST_LINES:  # nobody's memory is filled by paths that nobody serves
            self._count()
        refused = self._refused[line] = _Refused(method, template, before, after)
        return refused

    def _count(self) -> None:
        for refused in self._refused.values():
            self._untold += refused.count
            if self._metrics is not None:
                self._metrics.record_refused(refused.method, refused.template, refused.count)
        self._refused.clear()
        self._known.clear()

    def _tell(self) -> None:
        self._count()
        _log.warning("requests refused, the process is full", count=self._untold, room=self.room.limit)
        self._untold = 0
