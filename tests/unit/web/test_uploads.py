"""Streaming uploads: what comes out, how soon, and what is refused with which words."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from scalable_fastapi_system.kit.errors import APIException
from scalable_fastapi_system.web.uploads import MAX_FILENAME_LENGTH, file_body, receive_file, safe_filename
from starlette.requests import Request

BOUNDARY = "----frontier"
HEAD = b'Content-Disposition: form-data; name="file"; filename="a.csv"\r\nContent-Type: text/csv\r\n'


def form(*parts: tuple[bytes, bytes], end: bytes = b"--\r\n") -> bytes:
    """A form of (headers, content)."""
    body = b"".join(
        b"--" + BOUNDARY.encode() + b"\r\n" + headers + b"\r\n" + content + b"\r\n"
        for headers, content in parts
    )
    return body + b"--" + BOUNDARY.encode() + end


def request(
    body: Sequence[bytes],
    content_type: str | None = f"multipart/form-data; boundary={BOUNDARY}",
    *,
    breaks: bool = False,
) -> Request:
    """A request whose body comes in these messages; `breaks`: the client leaves before its end."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": breaks or number < len(body) - 1}
        for number, piece in enumerate(body)
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    headers = [(b"content-type", content_type.encode())] if content_type is not None else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def read(made: Request, max_bytes: int = 10_000, **options: Any) -> tuple[str, bytes]:
    upload = await receive_file(made, max_bytes=max_bytes, **options)
    return upload.filename, b"".join([piece async for piece in upload.content()])


async def refusal(made: Request, **options: Any) -> APIException:
    with pytest.raises(APIException) as refused:
        await read(made, **options)
    assert refused.value.headers["Connection"] == "close"
    return refused.value


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
async def test_the_file_comes_out_however_the_body_is_cut(size: int) -> None:
    content = b"a,b\r\n1,2\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\r\n--\r\n"
    body = form((HEAD, content))

    made = request([body[start : start + size] for start in range(0, len(body), size)])
    assert await read(made) == ("a.csv", content)


async def test_a_form_of_a_real_client_is_read() -> None:
    sent = httpx.Request("POST", "http://test", files={"file": ("täble.csv", b"a\n1\n", "text/csv")})
    made = request([sent.read()], sent.headers["content-type"])

    assert await read(made) == ("täble.csv", b"a\n1\n")


async def test_an_empty_file_is_a_file() -> None:
    assert await read(request([form((HEAD, b""))])) == ("a.csv", b"")


async def test_pieces_are_handed_on_before_the_body_has_ended() -> None:
    body = form((HEAD, b"x" * 1000))

    async def receive() -> dict[str, Any]:
        if not sent:
            sent.append(1)
            return {"type": "http.request", "body": body[:500], "more_body": True}
        raise AssertionError("asked for more than was needed")

    sent: list[int] = []
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY.encode())],
    }
    upload = await receive_file(Request(scope, receive), max_bytes=10_000)
    assert (await anext(upload.content())).startswith(b"xxx")


async def test_memory_does_not_grow_with_the_file() -> None:
    total = 200 * 1024 * 1024

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        assert message is not None
        return message

    def body() -> Any:
        yield {"type": "http.request", "body": form((HEAD, b""))[: -len(BOUNDARY) - 8], "more_body": True}
        for _ in range(total // 65536):
            yield {"type": "http.request", "body": bytes(65536), "more_body": True}
        yield {"type": "http.request", "body": b"\r\n--" + BOUNDARY.encode() + b"--\r\n", "more_body": False}

    messages = body()
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY.encode())],
    }
    tracemalloc.start()
    upload = await receive_file(Request(scope, receive), max_bytes=total)
    seen = 0
    async for piece in upload.content():
        seen += len(piece)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert seen == total
    assert peak_bytes < 2 * 1024 * 1024


async def test_the_byte_after_the_limit_is_refused_before_the_rest_is_read() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield form((HEAD, b"x" * 100))[:-20]
        while True:
            yield b"x" * 1000

    stream = endless()
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": await anext(stream), "more_body": True}

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY.encode())],
    }
    error = await refusal(Request(scope, receive), max_bytes=5000)
    assert (error.status_code, error.message) == (413, "The file is larger than the 5000 bytes allowed here")
    assert asked < 10


async def test_a_file_of_exactly_the_limit_is_taken() -> None:
    assert (await read(request([form((HEAD, b"x" * 5000))]), max_bytes=5000))[1] == b"x" * 5000


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "text/csv", "multipart/mixed; boundary=x"]
)
async def test_what_is_not_a_form_is_refused(content_type: str | None) -> None:
    error = await refusal(request([b"a,b\n"], content_type))
    assert error.status_code == 415
    assert "multipart/form-data" in error.message


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 71, '; boundary=""'])
async def test_a_form_without_a_usable_boundary_is_refused(boundary: str) -> None:
    error = await refusal(request([form((HEAD, b""))], "multipart/form-data" + boundary))
    assert (error.status_code, "boundary" in error.message) == (400, True)


@pytest.mark.parametrize(
    ("parts", "location", "words"),
    [
        ([], "body.file", "is missing"),
        (
            [(b'Content-Disposition: form-data; name="other"; filename="a"\r\n', b"1")],
            "body.other",
            "no such field",
        ),
        ([(b'Content-Disposition: form-data; name="file"\r\n', b"1")], "body.file", "must be a file"),
        ([(HEAD, b"1"), (HEAD, b"2")], "body.file", "sent twice"),
        (
            [(HEAD, b"1"), (b'Content-Disposition: form-data; name="is_admin"\r\n', b"1")],
            "body.is_admin",
            "no such field",
        ),
        ([(b"Content-Type: text/csv\r\n", b"1")], "body.unnamed", "no such field"),
    ],
)
async def test_a_form_with_anything_but_one_file_is_refused(
    parts: list[tuple[bytes, bytes]], location: str, words: str
) -> None:
    error = await refusal(request([form(*parts)]))
    assert error.status_code == 422
    assert error.problems[0].location == location
    assert words in error.message


async def test_a_type_that_is_not_taken_is_refused_and_none_at_all_passes() -> None:
    types = {"text/csv", "application/octet-stream"}
    png = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: IMAGE/PNG; x=1\r\n'
    error = await refusal(request([form((png, b"1"))]), types=types)
    assert error.status_code == 422
    assert (
        "'png'; taken are application/octet-stream, text/csv" in error.message or "image/png" in error.message
    )
    untyped = b'Content-Disposition: form-data; name="file"; filename="a.csv"\r\n'
    assert await read(request([form((untyped, b"1"))]), types=types) == ("a.csv", b"1")


@pytest.mark.parametrize("kept", range(1, 10))
async def test_a_body_that_ends_early_is_refused(kept: int) -> None:
    body = form((HEAD, b"a,b\n1,2\n"))
    error = await refusal(request([body[: len(body) * kept // 10]]))
    assert error.status_code == 400


async def test_a_client_that_leaves_is_a_broken_upload_and_not_a_defect() -> None:
    body = form((HEAD, b"a,b\n1,2\n"))
    error = await refusal(request([body[:-30]], breaks=True))
    assert (error.status_code, error.message) == (400, "The upload was broken off")


async def test_headers_without_end_are_refused() -> None:
    endless = b"--" + BOUNDARY.encode() + b"\r\nX-Long: " + b"x" * 100_000
    error = await refusal(request([endless]), max_bytes=10**9)
    assert error.status_code == 400


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("report.csv", "report.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\täble.csv", "täble.csv"),
        ("a\x00b\x07\u202ecsv.exe\u200b", "abcsv.exe"),
        ("  two \t words\r\n.csv ", "two words .csv"),
        (".htaccess", "htaccess"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("folder/", "unnamed"),
        ("e\u0301.csv", "\u00e9.csv"),
        ("x" * 500 + ".csv", "x" * (MAX_FILENAME_LENGTH - 4) + ".csv"),
        ("\ud83d\ude00", "unnamed"),
    ],
)
def test_a_filename_is_made_safe(raw: str, safe: str) -> None:
    assert safe_filename(raw) == safe


async def test_quotes_in_a_filename_come_back() -> None:
    head = b'Content-Disposition: form-data; name="file"; filename="a%22b%0Ac.csv"\r\n'
    assert (await read(request([form((head, b"1"))])))[0] == 'a"b c.csv'


def test_the_form_is_described_for_openapi() -> None:
    described = file_body("A table.", content_type="text/csv")["requestBody"]
    assert described["required"] is True
    schema = described["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["file"]
    assert schema["properties"]["file"]["format"] == "binary"
