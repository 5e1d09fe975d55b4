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
        self._untold = 0
        lines = [
            *headers,
            (b"content-security-policy", API_POLICY.encode()),
            (b"cache-control", b"no-store"),
            (b"content-type", MEDIA_TYPE.encode()),
            (b"retry-after", b"%d" % RETRY_AFTER_SECONDS),
        ]
        self._headers = b"".join(b"%s: %s\r\n" % line for line in lines)

    def refuse(self, data: bytes, default_headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """The answer to the request that these bytes are; None where that is not for this place to say."""
        first = _FIRST_LINE.match(data)
        end = data.find(b"\r\n\r\n")
        if first is None or end < 0:
            return None
        head = data[first.end() - 2 : end + 2]
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
        method, path = first[1].decode(), first[2].decode()
        facts, _ = self._routes.find(method, path)
        if facts.is_probe:
            return None
        inbound_id = told.get(b"x-request-id", b"").decode()
        request_id = inbound_id if is_request_id(inbound_id) else new_request_id()
        error = no_room()
        body = to_json(
            problem_body(
                status=error.status_code,
                message=error.message,
                error_code=error.error_code,
                title=error.title,
                path=path,
                request_id=request_id,
            )
        )
        self._note(method, facts.template, int(length), len(body))
        defaults = b"".join(b"%s: %s\r\n" % header for header in default_headers)
        return b"HTTP/1.1 503 Service Unavailable\r\n%s%sx-request-id: %s\r\ncontent-length: %d\r\n\r\n%s" % (
            defaults,
            self._headers,
            request_id.encode(),
            len(body),
            body,
        )

    def _note(self, method: str, template: str, request_bytes: int, response_bytes: int) -> None:
        if self._metrics is not None:
            self._metrics.shed.inc()
            self._metrics.record_request(
                method, template, 503, 0.0, request_bytes=request_bytes, response_bytes=response_bytes
            )
        if not self._untold:
            asyncio.get_running_loop().call_later(_TELL_SECONDS, self._tell)
        self._untold += 1

    def _tell(self) -> None:
        _log.warning("requests refused, the process is full", count=self._untold, room=self.room.most)
        self._untold = 0
