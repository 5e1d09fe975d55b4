"""uvicorn's HTTP protocol with what it lacks against slow clients: limits for a request's head and for unread answers.

uvicorn waits for ever for the rest of a request's head, and for a client that does not read. Here each connection is
looked at four times in nine tenths of `API__SLOW_CLIENT_SECONDS`. One that has waited for its client at four looks in a row, for

- the head of a request (also where it trickles in), or the first byte of a new connection,
- the reading of an answer, at less than `API__SLOW_CLIENT_BYTES_PER_SECOND`,
- anything sensible at all, after bytes that make up no request,

is cut off: so after two thirds of that time at the earliest, and within it, by a busy process too. Looks and not deadlines: they cost a
request nothing, and a process that was stopped for a while blames nobody. The body of a request is the middleware's
(`slow_body.py`), because only who reads it knows whether it is waited for. Idle kept-alive connections are uvicorn's.

A process that leaves lets no request meet a closing connection: an idle one is served until its next answer, which says
`Connection: close`, or for `leave_seconds` at most. uvicorn closes it at once, and what is then under way is reset.
What arrived within that time is read before the end, also where the process was too busy to read it sooner.

While the process is full, requests are refused or wait for room (`waiting_line.py`); what is plainly one whole request is refused
before it is parsed (`refusals.py`).

A request that breaks HTTP, or has a head of more than `API__MAX_HEAD_BYTES`, gets the error body that all failures get.

And what uvicorn does otherwise: an upgrade that is not served is ignored, trailers are dropped, nothing more is read while requests of
one connection wait behind each other, and bytes that make up no request take no answer of the one before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Sized
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.ids import new_request_id
from scalable_fastapi_system.web.acceptor import Acceptor
from scalable_fastapi_system.web.cut_offs import ANSWER, HEAD, REST, CutOffs
from scalable_fastapi_system.web.envelope import to_json
from scalable_fastapi_system.web.problems import MEDIA_TYPE, problem_body
from scalable_fastapi_system.web.refusals import Refusals
from scalable_fastapi_system.web.security_headers import API_POLICY, security_headers
from scalable_fastapi_system.web.slow_body import PATIENCE_SHARE
from scalable_fastapi_system.web.waiting_line import BY_BYTES, PARSED, WaitingLine

LOOKS = 4
LEAVE_SECONDS = 5.0
LAST_READ_SECONDS = 0.1
# Requests that wait behind another on one connection: more than clients send at once, and 300 KB. One reading of the socket may bring
# nine thousand.
MOST_PIPELINED = 128
_NOT_OURS = -1  # the descriptor of a connection that is encrypted
_DISCARD = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time at all: the connection is reset


def http_protocol(settings: Settings) -> type[GuardedHttpProtocol]:
    """The protocol with these settings' limits, for uvicorn's `http=`."""
    api = settings.api
    headers = [
        *security_headers(settings),
        (b"content-security-policy", API_POLICY.encode()),
        (b"cache-control", b"no-store"),
        (b"content-type", MEDIA_TYPE.encode()),
        (b"connection", b"close"),
    ]
    seconds_between_looks = api.slow_client_seconds * PATIENCE_SHARE / LOOKS
    limits = {
        "cut_offs": CutOffs(),
        "seconds_between_looks": seconds_between_looks,
        "bytes_between_looks": api.slow_client_bytes_per_second * seconds_between_looks,
        "max_head_bytes": api.max_head_bytes,
        "refusal_headers": b"".join(name + b": " + value + b"\r\n" for name, value in headers),
        # well within the time that the process has for leaving: after that it cuts off whatever is under way
        "leave_seconds": min(LEAVE_SECONDS, api.shutdown_grace_seconds / 2),
    }
    return type("ConfiguredHttpProtocol", (GuardedHttpProtocol,), limits)


class _Trailers(list[tuple[bytes, bytes]]):
    """Takes what looks like headers behind a chunked body. Anybody may write there what a proxy has checked in the head, so it is dropped."""

    def append(self, _header: tuple[bytes, bytes]) -> None:
        pass


_TRAILERS = _Trailers()


class _Flow(FlowControl):
    """Reads nothing more while requests wait behind another, whoever asks for it: uvicorn does after each answer."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            super().resume_reading()


class GuardedHttpProtocol(HttpToolsProtocol):
    """One connection; see the module. Made ready by `http_protocol`."""

    cut_offs: CutOffs
    seconds_between_looks: float
    bytes_between_looks: float
    max_head_bytes: int
    refusal_headers: bytes
    leave_seconds: float
    acceptor: Acceptor | None = None  # takes the connections that wait behind this one

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for: object = None  # what was waited for at the last look, told apart by identity
        self._looks = 0
        self._unsent_bytes = 0
        self._pause: object = None
        self._head_bytes = 0  # of the head or the trailers that have not come to their end
        self._has_come_on = False  # to the end of a head, or with a body
        self._is_leaving = False
        self._is_ending = False  # with the last answer that is under way: what comes on is dropped
        self._held: bytes | None = None  # what waits for room
        self._held_at: float | None = None  # since when, by time.perf_counter
        self._running: Any = None  # the cycle that is answered: uvicorn's `cycle` is the last that came
        # The socket's; the transport's alone from the moment that it closes.
        self._descriptor: int | None = None
        self._refused_at = float("-inf")  # for want of room, by the loop's clock
        # What the platform's middleware left for us. None for another application, or behind one that wraps ours.
        state = getattr(self.config.loaded_app, "state", None)
        self._line: WaitingLine | None = getattr(state, "waiting_line", None)

    # -- asyncio's calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._timer = self.loop.call_later(self.seconds_between_looks, self._look)
        if self.acceptor is not None:
            self.acceptor.take_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_looks()
        self._held = None
        super().connection_lost(exc)
        running = self._running  # with others behind it uvicorn tells the last alone
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self._unset_keepalive_if_required()  # which uvicorn leaves to run where the connection was reset

    def pause_writing(self) -> None:
        self._pause = object()
        super().pause_writing()

    def data_received(self, data: bytes) -> None:
        held, line = self._held, self._line
        if held is not None:  # there is more of it: the parser tells what it is
            self._held = None
            self._read_held(held + data)
            return
        if line is not None and line.room.is_full and self._is_turned_away(line, data):
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        if self._is_ending:
            return
        before = self.scope
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
                break
            except HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
                return
        cycle, scope = self.cycle, self.scope
        if cycle is not None and cycle.scope is scope and (self._has_come_on or not cycle.more_body):
            self._head_bytes = 0
            self._has_come_on = False
            return
        # Where the head begins behind the end of another request, nobody knows how much of these bytes it is.
        if scope is before or cycle is None:
            self._head_bytes += len(data)
        if self._head_bytes > self.max_head_bytes and not self.transport.is_closing():
            self._refuse(
                431, f"The request's head or trailers exceed the {self.max_head_bytes} bytes allowed"
            )

    # -- uvicorn's calls ------------------------------------------------------------------------------------

    def handle_websocket_upgrade(self) -> None:
        self._end_looks()  # another protocol takes the connection over
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # the rest of an answered request may have come just before

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self._should_upgrade():
                super().on_headers_complete()
            elif self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")  # which the parser takes for a request that breaks HTTP
            return  # `_read` goes on, without an upgrade that is not served
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many at once")  # the last one's answer says that the connection ends
        super().on_headers_complete()
        self._has_come_on = True
        self.headers = _TRAILERS  # the scope has the others
        if self._held_at is not None:
            self.scope["state"]["came_at"] = self._held_at  # the wait is the client's time too
        if self._is_leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._has_come_on = True

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            return  # of an upgrade: nothing has begun
        cycle.more_body = False
        cycle.message_event.set()
        if not cycle.response_complete or self.transport.is_closing():
            return
        if self.timeout_keep_alive_task is None:
            self._wait_for_next(self.timeout_keep_alive)  # its answer did not wait for its body

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if cycle.disconnected:
            self.transport.close()  # it broke off before its turn; see `_refuse`
            return
        if self._line is not None:
            self._line.room.starting += 1
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        self._is_leaving = True
        if self.cycle is None or self.cycle.response_started:
            self.loop.call_later(self.leave_seconds, self._leave)
        else:
            self.cycle.keep_alive = False

    def timeout_keep_alive_handler(self) -> None:
        left = self._refused_at + self.timeout_keep_alive - self.loop.time()
        if self._held is not None:
            left = self.timeout_keep_alive
        if left > 0 and not self.transport.is_closing():
            self._wait_for_next(left)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    # -- the waiting line's calls ---------------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """Whether a request of this connection waits for room."""
        return self._held is not None

    def begin_held(self) -> None:
        """There is room."""
        data, self._held = self._held, None
        if data is not None:
            self._read_held(data)

    def refuse_held(self, refusals: Refusals) -> int:
        """There is none: answers by the bytes. Where they leave a doubt the request goes on to the middleware, which refuses."""
        data, self._held = self._held, None
        if data is None or self.transport.is_closing():
            return 0
        answer = None
        # One that does not read its answers is held up by the next one's, which waits for it.
        if not self.flow.write_paused and not self._is_leaving:
            answer = refusals.refuse(data, self.server_state.default_headers)
        if answer is None:
            self._read_held(data)
            return PARSED
        self._held_at = None
        self._write_now(answer)
        # The idle time begins anew: by a mark, because ending a timer and making another costs as much as the rest.
        self._refused_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_for_next(self.timeout_keep_alive)
        return BY_BYTES

    # -- inside ---------------------------------------------------------------------------------------------

    def _read_held(self, data: bytes) -> None:
        self._read(data)
        self._held_at = None  # what of the head comes later has not waited for room

    def _head_without_upgrade(self) -> bytes:
        """The head of a request that asks for another protocol, without that: we have none, and it is to be ignored (RFC 9110, 7.8).

        The parser takes all that follows for the other protocol, and whoever goes on with it takes the request's body for a request
        of its own. So another parser begins with this head.
        """
        request, version = self.parser.get_method(), self.parser.get_http_version().encode()
        headers = [name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        return b"%s %s HTTP/%s\r\n%s\r\n" % (request, self.url, version, b"".join(headers))

    def _write_now(self, data: bytes) -> None:
        """Past the transport where nothing waits in it: uvloop's notes the bytes and comes back to them, when the connection
        has left the processor's cache."""
        transport = self.transport
        if self._descriptor is None:
            is_plain = transport.get_extra_info("sslcontext") is None
            self._descriptor = transport.get_extra_info("socket").fileno() if is_plain else _NOT_OURS
        written = 0
        if self._descriptor != _NOT_OURS and not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # full, or gone: the transport finds out what to do
                written = os.write(self._descriptor, data)
        if written < len(data):
            transport.write(data[written:])

    def _leave(self) -> None:
        # uvloop runs due timers before it reads: give it one more reading, for what came while it was busy
        self.loop.call_later(LAST_READ_SECONDS, super().shutdown)

    def _is_turned_away(self, line: WaitingLine, data: bytes) -> bool:
        """Whether the bytes, which come to a full process, were refused or wait. They have to begin a request on an idle connection."""
        cycle, scope = self.cycle, self.scope
        is_between = (
            scope is None and self._head_bytes == 0
            if cycle is None
            else cycle.scope is scope and cycle.response_complete and not cycle.more_body
        )
        if not is_between or self.flow.write_paused or self._is_leaving or self.transport.is_closing():
            return False
        self._held = data
        self._held_at = time.perf_counter()
        if not line.take(self, data):
            self._held = self._held_at = None
            return False
        return True

    def _wait_for_next(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _look(self) -> None:
        self._timer = self.loop.call_later(self.seconds_between_looks, self._look)
        kind, waits_for = self._find_wait()
        if waits_for is None or waits_for is not self._waits_for:
            self._waits_for = waits_for
            self._looks = 0
        if waits_for is None:
            return
        self._looks += 1
        if self._looks >= LOOKS:
            self._waits_for = None
            self._cut_off(kind)

    def _find_wait(self) -> tuple[str, object]:
        """What is waited for, and an object that is the same as long as it is the same wait; None for no wait."""
        cycle, scope = self.cycle, self.scope
        is_answered = cycle is None or cycle.response_complete
        unsent = self.transport.get_write_buffer_size()
        sent = self._unsent_bytes - unsent
        self._unsent_bytes = unsent
        if unsent:
            # Only where nothing is written now, so that the buffer's shrinking tells what the client has read.
            is_still = self.flow.write_paused or is_answered or self.transport.is_closing()
            is_slow = is_still and sent < self.bytes_between_looks
            return ANSWER, (self._pause or self.flow) if is_slow else None
        if not is_answered or self.transport.is_closing():
            return REST, None
        if self.timeout_keep_alive_task is not None or self._held is not None:
            return REST, None  # idle: its last request is answered, or was refused; or it waits for us
        if scope is None or cycle is None or cycle.scope is not scope:
            return HEAD, self.flow if scope is None else scope
        # Its last answer is given and no keep-alive time runs: what came since is no beginning of a request.
        return REST, cycle

    def _cut_off(self, kind: str) -> None:
        self.cut_offs.note(kind, self.client[0] if self.client else None, self.loop)
        if kind == ANSWER:
            # A close would wait for the client to read the rest: here, and then the kernel with its buffers.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
            self.transport.abort()
        elif kind == HEAD and self.scope is not None:
            self._refuse(408, "The request's head did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answers what never became a whole request, and closes.

        Whoever waits for another answer gets that one, and the connection ends with it: it is of a request that may have been done.
        """
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                self._is_ending = True
                return
            if self.pipeline:  # those before it have their turn, and it has none
                cycle.disconnected = self._is_ending = True
                return
            if cycle.response_started:
                self.transport.abort()
                return
        elif cycle is not None and cycle.more_body:  # it has its answer
            self.transport.close()
            return
        request_id = new_request_id()
        body = to_json(problem_body(status=status, message=message, path="", request_id=request_id))
        lines = [STATUS_LINE[status]]
        lines += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        lines.append(self.refusal_headers)
        lines.append(b"x-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (request_id.encode(), len(body)))
        self.transport.write(b"".join([*lines, body]))
        self.transport.close()

    def _end_looks(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
