"""When a connection is cut off: at the fourth look in a row that finds it waiting for its client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.http_protocol import (
    LOOKS,
    MOST_PIPELINED,
    GuardedHttpProtocol,
    http_protocol,
)
from scalable_fastapi_system.web.waiting_line import WaitingLine
from uvicorn import Config
from uvicorn.server import ServerState

SETTINGS = Settings(
    _env_file=None,
    api={"slow_client_seconds": 8, "slow_client_bytes_per_second": 100, "max_head_bytes": 8192},
)
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Transport(MagicMock):
    """What the protocol needs of one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.unsent = 0
        self.written = b""
        self.is_over = False
        self.is_read = True

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    abort = close


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def connected(app: Any) -> GuardedHttpProtocol:
    """The server's end of a connection to this application."""
    made = http_protocol(SETTINGS)(
        config=Config(app, lifespan="off", log_config=None),
        server_state=ServerState(),
        app_state={},
        _loop=asyncio.get_running_loop(),
    )
    made.connection_made(Transport())
    return made


@pytest.fixture
async def protocol() -> GuardedHttpProtocol:
    return connected(answer)


class Told:
    """An application that keeps what it was asked, and answers with it where it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.scopes: list[Any] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, is_whole = b"", False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            is_whole = not message["more_body"]
        self.scopes.append(scope)
        self.asked.append((scope["method"], scope["path"], body))
        await self.may_answer.wait()
        text = scope["path"].encode() + body
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@pytest.fixture
async def told() -> Told:
    return Told()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def settle() -> None:
    """Lets everything come as far as it comes without more bytes."""
    for _ in range(20):
        await asyncio.sleep(0)


def looks_until_cut_off(protocol: GuardedHttpProtocol) -> int:
    for number in range(1, 20):
        protocol._look()
        if protocol.transport.is_closing():
            return number
    return 0


def test_four_looks_and_some_lateness_fit_into_the_time() -> None:
    made = http_protocol(SETTINGS)
    assert made.seconds_between_looks * LOOKS == pytest.approx(7.2)
    assert made.bytes_between_looks * LOOKS == pytest.approx(720)


@pytest.mark.parametrize("first", [b"", b"GET / HT", REQUEST[:-2], b"\r\n"])
async def test_a_head_that_does_not_come_is_cut_off_at_the_fourth_look(
    protocol: GuardedHttpProtocol, first: bytes
) -> None:
    protocol.data_received(first)
    assert looks_until_cut_off(protocol) == LOOKS


async def test_a_head_that_trickles_in_is_cut_off_at_the_fourth_look_all_the_same(
    protocol: GuardedHttpProtocol,
) -> None:
    for number in range(LOOKS):
        protocol.data_received(REQUEST[number : number + 1])
        assert not protocol.transport.is_closing()
        protocol._look()
    # the first byte is one of a head, before it there was nothing: the wait began with the head
    assert protocol.transport.is_closing()
    assert protocol.transport.written.startswith(b"HTTP/1.1 408 ")


async def test_a_request_starts_the_count_anew_and_an_idle_connection_is_left_alone(
    protocol: GuardedHttpProtocol,
) -> None:
    for _ in range(LOOKS - 1):
        protocol._look()
    protocol.data_received(REQUEST)
    assert protocol.cycle is not None
    while not protocol.cycle.response_complete:
        await asyncio.sleep(0)
    assert looks_until_cut_off(protocol) == 0


async def test_a_connection_that_was_reset_leaves_no_timer_behind(protocol: GuardedHttpProtocol) -> None:
    protocol.data_received(REQUEST)
    while not protocol.cycle.response_complete:
        await asyncio.sleep(0)
    idle = protocol.timeout_keep_alive_task
    assert idle is not None

    protocol.connection_lost(ConnectionResetError())

    assert idle.cancelled()
    assert protocol.timeout_keep_alive_task is None


async def test_bytes_that_are_no_request_do_not_keep_a_connection(protocol: GuardedHttpProtocol) -> None:
    protocol.data_received(REQUEST)
    while not protocol.cycle.response_complete:
        await asyncio.sleep(0)
    protocol.data_received(b"\r\n")  # uvicorn ends its keep-alive time at any byte
    assert looks_until_cut_off(protocol) == LOOKS


@pytest.mark.parametrize(("read_per_look", "is_cut_off"), [(0, True), (179, True), (180, False)])
async def test_a_reader_has_to_keep_up_the_least_rate(
    protocol: GuardedHttpProtocol, read_per_look: int, is_cut_off: bool
) -> None:
    protocol.data_received(REQUEST)
    while not protocol.cycle.response_complete:
        await asyncio.sleep(0)
    protocol.transport.unsent = 50_000
    cut_off_at = 0
    for number in range(1, 12):
        protocol._look()
        if protocol.transport.is_closing():
            cut_off_at = number
            break
        protocol.transport.unsent -= read_per_look
    assert cut_off_at == (LOOKS if is_cut_off else 0)


class FullRoom:
    """Room for nobody."""

    is_full = True
    starting = 0
    ended = 0


class Refusing:
    """Refuses whatever it is asked about."""

    def __init__(self) -> None:
        self.room = FullRoom()

    def may_refuse(self, data: bytes) -> bool:
        return b"\r\n" in data

    def refuse(self, data: bytes, _headers: Any) -> bytes | None:
        return b"refused" if data == REQUEST else None


def fill(protocol: GuardedHttpProtocol) -> None:
    """The process has no more room."""
    protocol._line = WaitingLine(Refusing())  # type: ignore[arg-type]


async def wait(protocol: GuardedHttpProtocol) -> None:
    """Until what waits for room has been begun or refused."""
    assert protocol.is_held
    async with asyncio.timeout(30):
        while protocol.is_held:
            await asyncio.sleep(0.001)


async def until_answered(protocol: GuardedHttpProtocol) -> None:
    """By the application."""
    async with asyncio.timeout(30):
        while protocol.cycle is None or not protocol.cycle.response_complete:
            await asyncio.sleep(0)
    assert b"HTTP/1.1 200" in protocol.transport.written


@pytest.fixture
def full(protocol: GuardedHttpProtocol) -> GuardedHttpProtocol:
    fill(protocol)
    return protocol


@pytest.fixture
async def exhausted(full: GuardedHttpProtocol) -> GuardedHttpProtocol:
    """In a full process that has refused as many as it may until the next turn."""
    line = full._line
    assert line is not None
    line._plan_turn()
    assert line._left == 0
    return full


async def test_a_full_process_refuses_and_the_connection_is_idle_again(full: GuardedHttpProtocol) -> None:
    for number in range(1, 4):
        full.data_received(REQUEST)
        assert full.transport.written == b"refused" * number
        assert looks_until_cut_off(full) == 0
    assert full.cycle is None
    assert full.timeout_keep_alive_task is not None
    assert looks_until_cut_off(full) == 0
    full.data_received(b"GET / HT")
    assert looks_until_cut_off(full) == LOOKS


async def test_a_refusal_begins_the_idle_time_anew(full: GuardedHttpProtocol) -> None:
    full.timeout_keep_alive = 600  # nothing here waits for it: the timer is due when the test says so
    full.data_received(REQUEST)
    first = full.timeout_keep_alive_task
    assert first is not None
    full._refused_at -= 700
    full.data_received(REQUEST)
    full.timeout_keep_alive_handler()
    assert not full.transport.is_closing()
    assert full.timeout_keep_alive_task is not first, "it waits for the rest of the new time"
    full._refused_at -= 700
    full.timeout_keep_alive_handler()
    assert full.transport.is_closing()


async def test_what_comes_in_the_middle_of_something_is_not_refused_by_its_bytes(
    full: GuardedHttpProtocol,
) -> None:
    full.data_received(b"GET / HTTP/1.1\r\nX: ")
    full.data_received(REQUEST)
    assert full.transport.written == b""


async def test_one_refusal_too_many_waits_for_the_next_turn(exhausted: GuardedHttpProtocol) -> None:
    exhausted.data_received(REQUEST)
    assert exhausted.transport.written == b""
    assert looks_until_cut_off(exhausted) == 0  # it waits for us, and not for its client
    await wait(exhausted)
    assert exhausted.transport.written == b"refused"


@pytest.mark.parametrize("room_bytes", [0, 3, 7])
async def test_a_refusal_goes_straight_to_the_socket_and_what_does_not_fit_to_the_transport(
    full: GuardedHttpProtocol, monkeypatch: pytest.MonkeyPatch, room_bytes: int
) -> None:
    ours, theirs = socket.socketpair()
    write = os.write

    def write_some(descriptor: int, data: bytes) -> int:
        if not room_bytes:
            raise BlockingIOError
        return write(descriptor, data[:room_bytes])

    with ours, theirs:
        theirs.setblocking(False)
        facts = {"sslcontext": None, "socket": ours}
        full.transport.get_extra_info = facts.get
        monkeypatch.setattr("os.write", write_some)
        full.data_received(REQUEST)
        assert full.transport.written == b"refused"[room_bytes:]
        if room_bytes:
            assert theirs.recv(100) == b"refused"[:room_bytes]


async def test_a_refusal_does_not_overtake_what_the_transport_has_not_sent(
    full: GuardedHttpProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        facts = {"sslcontext": None, "socket": ours}
        full.transport.get_extra_info = facts.get
        full.transport.unsent = 1
        full.data_received(REQUEST)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    assert full.transport.written == b"refused"


async def test_nothing_is_written_on_a_connection_that_closes(exhausted: GuardedHttpProtocol) -> None:
    exhausted.data_received(REQUEST)
    exhausted.transport.close()
    await wait(exhausted)
    assert exhausted.transport.written == b""


async def test_the_wait_for_room_is_part_of_the_request_s_time(exhausted: GuardedHttpProtocol) -> None:
    began = time.perf_counter()
    exhausted.data_received(REQUEST)
    ended = time.perf_counter()
    exhausted._line.room.is_full = False  # type: ignore[union-attr, misc]
    await wait(exhausted)
    assert began <= exhausted.cycle.scope["state"]["came_at"] <= ended
    await until_answered(exhausted)
    exhausted.data_received(REQUEST)
    assert "came_at" not in exhausted.cycle.scope["state"]


async def test_a_client_that_does_not_read_gets_no_refusal_on_top(exhausted: GuardedHttpProtocol) -> None:
    exhausted.data_received(REQUEST)
    exhausted.pause_writing()
    await wait(exhausted)
    assert exhausted.transport.written == b""
    exhausted.resume_writing()  # its request was left to the application, whose answer waits for it
    await until_answered(exhausted)


async def test_between_two_requests_it_refuses_too(protocol: GuardedHttpProtocol) -> None:
    protocol.data_received(REQUEST)
    fill(protocol)
    protocol.data_received(REQUEST)
    while protocol.pipeline or not protocol.cycle.response_complete:
        await asyncio.sleep(0)
    assert b"refused" not in protocol.transport.written  # the first was at work
    protocol.data_received(REQUEST)
    assert protocol.transport.written.endswith(b"refused")


async def test_what_waited_is_served_where_there_is_room_by_then(exhausted: GuardedHttpProtocol) -> None:
    exhausted.data_received(REQUEST)
    exhausted._line.room.is_full = False  # type: ignore[union-attr, misc]
    await wait(exhausted)
    await until_answered(exhausted)


async def test_what_comes_in_pieces_while_it_waits_is_put_together(exhausted: GuardedHttpProtocol) -> None:
    exhausted.data_received(REQUEST[:-2])
    assert exhausted.is_held
    exhausted.data_received(REQUEST[-2:])
    assert not exhausted.is_held
    await until_answered(exhausted)


async def test_what_comes_in_pieces_is_left_to_the_parser(full: GuardedHttpProtocol) -> None:
    full.data_received(REQUEST[:-2])
    assert not full.is_held
    full.data_received(REQUEST[-2:])
    await until_answered(full)
    assert "came_at" not in full.cycle.scope["state"]  # its client was slow, and nothing of ours


async def test_the_idle_time_does_not_end_a_connection_that_waits_for_room(
    exhausted: GuardedHttpProtocol,
) -> None:
    exhausted.data_received(REQUEST)
    exhausted.timeout_keep_alive_handler()
    assert not exhausted.transport.is_closing()


async def test_an_endless_head_is_a_431(protocol: GuardedHttpProtocol) -> None:
    protocol.data_received(b"GET / HTTP/1.1\r\nX-Long: ")
    protocol.data_received(b"x" * 8000)
    assert not protocol.transport.is_closing()
    protocol.data_received(b"x" * 8000)
    assert protocol.transport.written.startswith(b"HTTP/1.1 431 ")
    assert json.loads(protocol.transport.written.partition(b"\r\n\r\n")[2])["instance"] == ""
    assert protocol.transport.is_closing()


async def test_no_look_follows_the_end_of_the_connection(protocol: GuardedHttpProtocol) -> None:
    timer = protocol._timer
    assert timer is not None
    protocol.connection_lost(None)
    assert timer.cancelled()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
FOLLOWING = b"GET /following HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.parametrize("framing", [b"Content-Length: %d", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("size", [1, 7, 150, 10_000])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_upgrade_that_is_not_served_is_ignored_and_the_body_is_the_request_s(
    told: Told, framing: bytes, size: int, version: bytes
) -> None:
    """As Java's client and `curl --http2` ask for it; read as another request the body would be anybody's."""
    protocol = connected(told)
    body = FOLLOWING.replace(b"following", b"smuggled")
    head = b"POST /first?x=1 HTTP/%s\r\nHost: test\r\n%s" % (version, UPGRADE)
    if b"chunked" in framing:
        data = head + framing + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        data = head + framing % len(body) + b"\r\n\r\n" + body
    data += FOLLOWING
    for start in range(0, len(data), size):
        protocol.data_received(data[start : start + size])
        await settle()
    expected = [("POST", "/first", body), ("GET", "/following", b"")]
    if version == b"1.0":
        expected.pop()  # whose connection ends with the answer
    else:
        await until(lambda: b"/following" in protocol.transport.written)
    assert told.asked == expected
    first = told.scopes[0]
    assert (first["http_version"], first["query_string"]) == (version.decode(), b"x=1")
    assert b"upgrade" not in dict(first["headers"])


async def test_upgrades_that_follow_each_other_are_all_ignored(told: Told) -> None:
    protocol = connected(told)
    protocol.data_received(b"GET /first HTTP/1.1\r\nHost: test\r\n" + UPGRADE + b"\r\n")
    protocol.data_received((b"GET /next HTTP/1.1\r\nHost: test\r\n" + UPGRADE + b"\r\n") * 3 + FOLLOWING)
    await until(lambda: b"/following" in protocol.transport.written)
    assert [path for _, path, _ in told.asked] == ["/first", "/next", "/next", "/next", "/following"]


async def test_an_upgrade_that_is_served_goes_on_as_before(told: Told) -> None:
    protocol, other = connected(told), MagicMock()
    protocol.ws_protocol_class = other
    protocol.data_received(
        b"GET /socket HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    (given,) = other.return_value.data_received.call_args.args
    assert given.startswith(b"GET /socket HTTP/1.1\r\n")
    assert b"upgrade: websocket\r\n" in given
    assert protocol.transport.set_protocol.called
    assert told.asked == []


async def test_a_tunnel_is_refused_and_what_would_go_through_it_is_no_request(told: Told) -> None:
    for target in (b"test:80", b"http://test/path"):
        protocol = connected(told)
        protocol.data_received(b"CONNECT %s HTTP/1.1\r\nHost: test\r\n\r\n" % target + FOLLOWING)
        await settle()
        assert protocol.transport.written.startswith(b"HTTP/1.1 400 ")
        assert protocol.transport.is_closing()
    assert told.asked == []


POST = b"POST /first HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"


def statuses(protocol: GuardedHttpProtocol) -> list[bytes]:
    return re.findall(rb"HTTP/1.1 (\d+)", protocol.transport.written)


@pytest.mark.parametrize(
    "behind",
    [
        b"no request\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 20_000,
        b"CONNECT test:80 HTTP/1.1\r\n\r\n",
        b"POST /broken HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\nno size\r\n",
    ],
)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [100, 10_000])
async def test_what_comes_behind_a_request_does_not_take_its_answer(
    told: Told, behind: bytes, count: int, size: int
) -> None:
    """A POST that was done is not to be answered 400, by which its client would take it for refused."""
    protocol = connected(told)
    told.may_answer.clear()
    data = POST * count + behind
    for start in range(0, len(data), size):
        protocol.data_received(data[start : start + size])
        await settle()
    protocol.data_received(FOLLOWING)  # who broke HTTP is not listened to any more
    assert not protocol.transport.is_closing()
    assert protocol.transport.written == b""
    told.may_answer.set()
    await until(protocol.transport.is_closing)
    assert statuses(protocol) == [b"200"] * count
    assert told.asked == [("POST", "/first", b"body")] * count
    if b"/broken" not in behind:
        assert protocol.transport.written.count(b"connection: close") == 1


async def test_a_body_that_breaks_after_its_answer_gets_no_second_answer(
    protocol: GuardedHttpProtocol,
) -> None:
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    await until_answered(protocol)
    protocol.data_received(b"no size\r\n")
    assert protocol.transport.is_closing()
    assert statuses(protocol) == [b"200"]


@pytest.mark.parametrize("pieces", [[b"body"], [b"bo", b"dy"], [b"body" + FOLLOWING]])
async def test_a_connection_is_idle_when_the_body_has_come_after_the_answer(
    protocol: GuardedHttpProtocol, pieces: list[bytes]
) -> None:
    """Its client has done nothing wrong: an answer such as 401 or 404 waits for no body."""
    head, _, _ = POST.partition(b"body")
    for _ in range(2):
        protocol.data_received(head)
        await until(lambda: protocol.cycle.response_complete)
        for piece in pieces:
            protocol.data_received(piece)
        await until(lambda: protocol.cycle.response_complete)
        assert protocol.timeout_keep_alive_task is not None
        assert looks_until_cut_off(protocol) == 0
    assert len(statuses(protocol)) == (4 if FOLLOWING in pieces[0] else 2)


async def test_a_request_at_work_is_not_idle_since_the_body_of_the_last_one(told: Told) -> None:
    protocol = connected(answer)
    protocol.data_received(POST[:-4])
    await until_answered(protocol)
    protocol.app = told
    told.may_answer.clear()
    protocol.data_received(POST[-4:] + FOLLOWING)
    assert protocol.timeout_keep_alive_task is None
    told.may_answer.set()
    await until(lambda: len(statuses(protocol)) == 2)


async def test_a_head_that_does_not_come_on_behind_a_late_body_is_cut_off(
    protocol: GuardedHttpProtocol,
) -> None:
    protocol.data_received(POST[:-4])
    await until_answered(protocol)
    protocol.data_received(POST[-4:] + FOLLOWING[:10])
    assert looks_until_cut_off(protocol) == LOOKS
    assert statuses(protocol) == [b"200", b"408"]


async def test_a_full_process_refuses_by_its_bytes_what_follows_a_late_body(
    protocol: GuardedHttpProtocol,
) -> None:
    protocol.data_received(POST[:-4])
    await until_answered(protocol)
    protocol.data_received(POST[-4:])
    fill(protocol)
    protocol.data_received(REQUEST)
    assert protocol.transport.written.endswith(b"refused")


async def test_a_large_body_that_comes_with_the_next_head_is_not_part_of_it(told: Told) -> None:
    protocol = connected(told)
    body = b"x" * 20_000
    first = b"POST /first HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    protocol.data_received(first + FOLLOWING[:10])
    await settle()
    protocol.data_received(FOLLOWING[10:])
    await until(lambda: b"/following" in protocol.transport.written)
    assert statuses(protocol) == [b"200", b"200"]


async def test_a_head_that_began_behind_a_request_may_not_be_endless_either(told: Told) -> None:
    protocol = connected(told)
    protocol.data_received(FOLLOWING + b"GET / HTTP/1.1\r\nX-Long: ")
    await until_answered(protocol)
    for _ in range(2):
        assert not protocol.transport.is_closing()
        protocol.data_received(b"x" * 8000)
    assert statuses(protocol) == [b"200", b"431"]


async def test_nothing_more_is_read_while_requests_wait_for_their_turn(told: Told) -> None:
    """Who sends requests faster than they are answered waits, and does not fill the memory."""
    protocol = connected(told)
    told.may_answer.clear()
    protocol.data_received(FOLLOWING * 4)
    for number in range(1, 4):
        await until(
            lambda number=number: len(told.asked) == number
        )  # each has asked for its body, which reads on
        assert len(protocol.pipeline) == 4 - number
        assert not protocol.transport.is_read
        told.may_answer.set()
        await asyncio.sleep(0)
        told.may_answer.clear()
    await until(lambda: len(told.asked) == 4)
    assert protocol.transport.is_read  # its client may send more of it, or leave
    told.may_answer.set()
    await until(lambda: len(statuses(protocol)) == 4)
    assert not protocol.transport.is_closing()


async def test_a_stream_learns_that_its_client_left_though_others_wait_behind_it() -> None:
    left = asyncio.Event()

    async def stream(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    protocol = connected(stream)
    protocol.data_received(FOLLOWING * 2)
    await settle()
    assert not left.is_set()
    protocol.connection_lost(None)
    async with asyncio.timeout(5):
        await left.wait()


async def test_a_waiting_request_s_body_is_read_when_its_turn_has_come(told: Told) -> None:
    protocol = connected(told)
    protocol.data_received(FOLLOWING + POST + POST[:-2])
    assert not protocol.transport.is_read
    await until(lambda: protocol.transport.is_read)
    protocol.data_received(POST[-2:])
    await until(lambda: len(statuses(protocol)) == 3)
    assert told.asked == [("GET", "/following", b""), *[("POST", "/first", b"body")] * 2]


async def test_of_very_many_requests_at_once_the_first_are_answered_and_the_last_of_these_says_so(
    told: Told,
) -> None:
    protocol = connected(told)
    protocol.data_received(FOLLOWING * 1000)
    await until(protocol.transport.is_closing)
    assert statuses(protocol) == [b"200"] * (1 + MOST_PIPELINED)
    *others, last = protocol.transport.written.split(b"HTTP/1.1 ")
    assert b"connection: close" in last
    assert not any(b"connection: close" in other for other in others)


CHUNKED = b"POST /first HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [1, 10_000])
async def test_trailers_are_no_headers(told: Told, size: int) -> None:
    """A proxy checks and sets those of the head, and anybody may write behind the body."""
    protocol = connected(told)
    data = CHUNKED + b"4\r\nbody\r\n0\r\nHost: evil\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n" + FOLLOWING
    told.may_answer.clear()
    for start in range(0, len(data), size):
        protocol.data_received(data[start : start + size])
        await settle()
    told.may_answer.set()
    await until(lambda: len(statuses(protocol)) == 2)
    assert told.asked == [("POST", "/first", b"body"), ("GET", "/following", b"")]
    first, following = told.scopes
    assert first["headers"] == [(b"host", b"test"), (b"transfer-encoding", b"chunked")]
    assert following["headers"] == [(b"host", b"test")]


@pytest.mark.parametrize("piece", [b"X-%d: value\r\n" * 100, b"x" * 2000], ids=["many", "one"])
@pytest.mark.parametrize("before", [b"", b"4\r\nbody\r\n"])
async def test_endless_trailers_are_a_431(told: Told, before: bytes, piece: bytes) -> None:
    protocol = connected(told)
    protocol.data_received(CHUNKED + before + b"0\r\n")
    sent = 0
    while not protocol.transport.is_closing():
        assert sent <= SETTINGS.api.max_head_bytes + len(piece)
        protocol.data_received(piece)
        sent += len(piece)
        await settle()
    assert statuses(protocol) == [b"431"]
    assert sent > SETTINGS.api.max_head_bytes


async def test_a_body_may_be_longer_than_a_head(told: Told) -> None:
    protocol = connected(told)
    count = 20
    protocol.data_received(CHUNKED)
    for _ in range(count):
        protocol.data_received(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        await settle()
    protocol.data_received(b"0\r\n\r\n")
    await until(lambda: statuses(protocol) == [b"200"])
    assert told.asked == [("POST", "/first", b"x" * 1000 * count)]
