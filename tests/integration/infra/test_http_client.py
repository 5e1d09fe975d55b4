"""The client for services outside, against a real server on this machine that misbehaves on request."""

import asyncio
import gzip
import itertools
import time
import tracemalloc
import zlib

import pytest
from scalable_fastapi_system.infra import http_client
from scalable_fastapi_system.infra.http_client import (
    HttpClient,
    OutboundEncodingError,
    OutboundError,
    OutboundRefusedError,
    OutboundTimeoutError,
    OutboundTooLargeError,
)


class Server:
    """Answers each request with the next status in `plan` (then 200), or stalls."""

    def __init__(self):
        self.plan = []
        self.requests = []
        self.heads = []
        self.stall_seconds = 0
        self.answer = b""  # to every request, in place of the plan

    async def handle(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head.split(b"\r\n")[0].decode())
                self.heads.append(head.decode().lower())
                await asyncio.sleep(self.stall_seconds)
                if self.answer:
                    writer.write(self.answer)
                    await writer.drain()
                    return
                status = self.plan.pop(0) if self.plan else 200
                extra = b"Location: http://127.0.0.1:1/\r\n" if status == 302 else b""
                writer.write(b"HTTP/1.1 %d X\r\n%sContent-Length: 2\r\n\r\nok" % (status, extra))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_):
        self._server.close()


@pytest.fixture
async def server():
    async with Server() as made:
        yield made


@pytest.fixture
async def client(make_settings):
    settings = make_settings(
        http_client={"allow_private_addresses": True, "timeout_seconds": 5, "max_retries": 2}
    )
    async with HttpClient(settings) as made:
        yield made


async def test_a_passing_failure_is_repeated_and_the_answer_comes(client, server):
    server.plan = [503, 502]
    assert (await client.request("GET", server.url)).status_code == 200
    assert len(server.requests) == 3


async def test_a_post_is_made_once_unless_it_may_be_repeated(client, server):
    server.plan = [503]
    assert (await client.request("POST", server.url, json={})).status_code == 503
    server.plan = [503]
    assert (await client.request("POST", server.url, json={}, is_repeatable=True)).status_code == 200


async def test_an_error_that_will_not_pass_is_not_repeated(client, server):
    server.plan = [404]
    assert (await client.request("GET", server.url)).status_code == 404
    assert len(server.requests) == 1


async def test_no_call_outlives_its_deadline(make_settings, server):
    server.stall_seconds = 60
    patient = make_settings(http_client={"allow_private_addresses": True, "timeout_seconds": 30})
    async with HttpClient(patient) as made:
        started = time.monotonic()
        with pytest.raises(OutboundTimeoutError):
            await made.request("GET", server.url, timeout_seconds=0.3)
        assert time.monotonic() - started < 15


async def test_retries_stay_within_their_budget(client, server):
    server.plan = [503] * 200
    for _ in range(40):
        try:
            await client.request("GET", server.url)
        except OutboundRefusedError:
            break
    calls = 40
    assert len(server.requests) <= calls * 1.1 + 3


async def test_an_open_breaker_answers_at_once_without_a_call(client, server):
    server.plan = [500] * 5
    for _ in range(5):
        await client.request("GET", server.url)
    asked = len(server.requests)
    started = time.perf_counter()
    for _ in range(100):
        with pytest.raises(OutboundRefusedError):
            await client.request("GET", server.url)
    assert (time.perf_counter() - started) / 100 < 0.005
    assert len(server.requests) == asked


async def test_what_one_has_at_a_host_closes_it_to_nobody_else(client, server):
    server.plan = [500] * 5
    for _ in range(5):
        await client.request("POST", server.url, on_behalf_of="one")
    with pytest.raises(OutboundRefusedError):
        await client.request("POST", server.url, on_behalf_of="one")
    for caller in ("other", ""):
        assert (await client.request("POST", server.url, on_behalf_of=caller)).status_code == 200


@pytest.mark.parametrize(("retry_after", "calls"), [("3600", 1), ("0", 3), ("\xb2", 3), ("soon", 3)])
async def test_a_pause_longer_than_the_deadline_is_not_waited_for(client, server, retry_after, calls):
    head = f"HTTP/1.1 503 X\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server.answer = head.encode("latin-1")
    answer = await client.request("GET", server.url)
    assert answer.status_code == 503
    assert len(server.requests) == calls


@pytest.mark.parametrize("is_packed", [False, True])
async def test_an_answer_is_read_up_to_its_limit_whatever_it_unpacks_to(client, server, is_packed):
    body = b"\0" * (http_client.MAX_ANSWER_BYTES + 1)
    packed = gzip.compress(body) if is_packed else body
    encoding = b"Content-Encoding: gzip\r\n" if is_packed else b""
    server.answer = b"HTTP/1.1 200 X\r\n%sConnection: close\r\n\r\n" % encoding + packed
    with pytest.raises(OutboundTooLargeError):
        await client.request("GET", server.url)
    assert len(server.requests) == 1
    answer = await client.request("GET", server.url, max_bytes=len(body))
    assert answer.content == body


def answer_with(body, *headers):
    lines = "".join(f"{header}\r\n" for header in (*headers, "Connection: close"))
    return f"HTTP/1.1 200 X\r\n{lines}\r\n".encode() + body


def packed_zeros(mebibytes, times):
    """So many zeros, packed with gzip so many times; never all of them in memory."""

    def pack(pieces):
        stream = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        yield from map(stream.compress, pieces)
        yield stream.flush()

    pieces = itertools.repeat(bytes(1024 * 1024), mebibytes)
    for _ in range(times):
        pieces = pack(pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("times", "encoding", "error"),
    [(1, "gzip", OutboundTooLargeError), (2, "gzip, gzip", OutboundEncodingError)],
)
async def test_an_answer_that_would_fill_the_memory_is_refused_before_it_does(
    client, server, times, encoding, error
):
    server.answer = answer_with(packed_zeros(300, times), f"Content-Encoding: {encoding}")
    tracemalloc.start()
    try:
        with pytest.raises(error):
            await client.request("GET", server.url)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 30_000_000
    assert len(server.requests) == 1


async def test_an_answer_that_unpacks_to_nothing_comes_to_its_end(client, server):
    server.answer = answer_with(gzip.compress(b"") * 20_000, "Content-Encoding: gzip")
    with pytest.raises(OutboundTooLargeError):
        await client.request("GET", server.url, max_bytes=1000)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_an_answer_that_is_packed_reads_like_any_other(client, server, encoding, pack):
    packed = pack(b'{"name": "Zo\xc3\xab"}')
    server.answer = answer_with(packed, f"Content-Encoding: {encoding}", "Content-Type: application/json")
    answer = await client.request("GET", server.url)
    assert answer.json() == {"name": "Zoë"}
    assert answer.text == '{"name": "Zoë"}'
    assert answer.content == await answer.aread() == b'{"name": "Zo\xc3\xab"}'
    assert "\r\naccept-encoding: gzip, deflate\r\n" in server.heads[0]


async def test_an_encoding_that_was_not_asked_for_is_refused_where_there_is_a_body(client, server):
    server.answer = answer_with(b"whatever", "Content-Encoding: br")
    with pytest.raises(OutboundEncodingError):
        await client.request("GET", server.url)
    assert len(server.requests) == 1
    server.answer = answer_with(b"", "Content-Encoding: br", "Content-Length: 8")
    assert (await client.request("HEAD", server.url)).status_code == 200


async def test_an_answer_that_breaks_off_is_an_error(client, server):
    server.answer = answer_with(gzip.compress(b"all of it")[:-4], "Content-Encoding: gzip")
    with pytest.raises(OutboundError, match="DamagedBodyError"):
        await client.request("POST", server.url)


async def test_a_body_that_nobody_wants_is_not_read(client, server):
    server.answer = answer_with(
        b"short", "Content-Encoding: br", "Content-Length: 1000000000000", "X-Says: so"
    )
    answer = await client.request("GET", server.url, wants_body=False)
    assert (answer.status_code, answer.headers["x-says"], answer.content) == (200, "so", b"")


async def test_a_cookie_set_for_one_caller_is_not_sent_for_the_next(client, server):
    server.answer = answer_with(b"", "Set-Cookie: session=of-user-1; Path=/", "Content-Length: 0")
    assert "set-cookie" in (await client.request("GET", server.url)).headers
    await client.request("GET", server.url)
    assert len(server.heads) == 2
    assert "\r\ncookie:" not in server.heads[1]


async def test_a_call_may_have_a_longer_deadline_than_the_settings_one(make_settings, server):
    server.stall_seconds = 0.5
    patient = make_settings(http_client={"allow_private_addresses": True, "timeout_seconds": 0.1})
    async with HttpClient(patient) as made:
        answer = await made.request("GET", server.url, timeout_seconds=30)
    assert answer.status_code == 200
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://a..example/",
        f"http://{'a' * 64}.example/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http:///",
        "http://xn--/",
    ],
)
async def test_an_address_that_is_none_is_an_error_of_the_client_s(client, url):
    with pytest.raises(OutboundError):
        await client.request("GET", url)


@pytest.mark.parametrize("headers", [{"X-Note": "a\nb"}, {"X Note": "a"}])
async def test_a_mistake_of_the_caller_s_is_refused_and_not_held_against_the_service(client, server, headers):
    for _ in range(6):
        with pytest.raises(OutboundRefusedError, match="cannot be sent"):
            await client.request("GET", server.url, headers=headers)
    assert (await client.request("GET", server.url)).status_code == 200


async def test_a_body_that_raises_is_not_held_against_the_service(client, server):
    async def broken():
        yield b"a"
        raise LookupError("the caller's own")

    for _ in range(6):
        with pytest.raises(LookupError):
            await client.request("PUT", server.url, content=broken())
    assert (await client.request("GET", server.url)).status_code == 200


async def test_a_body_that_can_be_sent_once_is_sent_once(client, server):
    async def pieces():
        yield b"a"

    server.plan = [503]
    answer = await client.request("PUT", server.url, content=pieces(), headers={"Content-Length": "1"})
    assert answer.status_code == 503
    assert len(server.requests) == 1


async def test_redirects_are_handed_back_and_not_followed(client, server):
    server.plan = [302]
    assert (await client.request("GET", server.url)).status_code == 302


async def test_nothing_inside_can_be_reached_by_default(make_settings, server):
    async with HttpClient(make_settings()) as guarded:
        port = server.url.rsplit(":", 1)[1].strip("/")
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(OutboundError):
                await guarded.request("GET", f"http://{host}:{port}/")
        with pytest.raises(OutboundRefusedError):
            await guarded.request("GET", "file:///etc/passwd")
    assert server.requests == []


async def test_a_name_that_changes_its_address_after_the_check_gains_nothing(
    make_settings, server, monkeypatch
):
    """Rebinding: the first look-up says a public address, any later one says this machine."""
    answers = iter([["203.0.114.1"], ["127.0.0.1"], ["127.0.0.1"]])
    connected = []

    async def resolve(host, port):
        return next(answers)

    async def connect(self, host, port, **_):
        connected.append(host)
        raise OSError("not reached in a test")

    monkeypatch.setattr(http_client, "_resolve", resolve)
    monkeypatch.setattr(http_client.httpcore.AnyIOBackend, "connect_tcp", connect)
    async with HttpClient(make_settings(http_client={"max_retries": 0})) as guarded:
        with pytest.raises(OutboundError):
            await guarded.request("GET", "http://rebind.example/")
        assert connected == ["203.0.114.1"]
        with pytest.raises(OutboundRefusedError):
            await guarded.request("GET", "http://rebind.example/")
        assert connected == ["203.0.114.1"]
