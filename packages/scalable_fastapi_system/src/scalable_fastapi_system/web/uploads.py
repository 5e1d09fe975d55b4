"""Files uploaded as multipart/form-data, handed on while they arrive: nothing is kept in memory or on disk here.

    upload = await receive_file(request, max_bytes=limit)
    stored = await app.storage.put(key, upload.content())

The form has one field, the file. What is wrong with it is raised when it is seen, so possibly while `content()`
is read; storage then keeps nothing. 415: not a form. 400: the form is broken or ends early. 422: the field is
missing, is not a file, is not alone, or has a type that is not taken. 413: the file is too large.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import PurePosixPath
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from scalable_fastapi_system.kit.errors import APIException, FieldProblem, PayloadTooLargeException

MAX_FILENAME_LENGTH = 200
MAX_TYPE_LENGTH = 127  # RFC 6838 section 4.2: two names of at most 63 around a slash would do
# What a form with one file needs beyond the file: boundaries and headers.
FORM_OVERHEAD_BYTES = 16 * 1024
_NAMELESS = "unnamed"
# Browsers write these three so; nothing else in a name is percent-encoded (HTML, multipart/form-data encoding).
_ESCAPED = {"%22": '"', "%0D": "\r", "%0A": "\n"}
_FOLDERS = re.compile(r"^.*[/\\]", re.DOTALL)
_UNUSUAL_IN_TYPE = re.compile(r"[^\w/.+-]", re.ASCII)
# Whoever is refused may still be sending; the connection is of no use to either side.
_CLOSE = {"Connection": "close"}


class Upload:
    """A file on its way in.

    filename: as the client calls it, made safe to show and to store; never a path.
    content_type: as the client says, lower case, None where it says nothing. A claim, not a fact.
    """

    def __init__(self, form: _Form, filename: str, content_type: str | None) -> None:
        self._form = form
        self.filename = filename
        self.content_type = content_type

    async def content(self) -> AsyncGenerator[bytes, None]:
        """The file's bytes as they arrive; to be read once. At its end the form was whole and had nothing else."""
        async for piece in self._form.pieces():
            yield piece


async def receive_file(
    request: Request, *, max_bytes: int, field: str = "file", types: Collection[str] | None = None
) -> Upload:
    """Reads the form up to the beginning of its file.

    types: the media types that the file may say it is, None for any. A file that says nothing passes.
    """
    form = _Form(request, field=field, max_bytes=max_bytes, types=types)
    await form.read_head()
    return Upload(form, form.filename, form.content_type)


def file_body(description: str, *, field: str = "file", content_type: str | None = None) -> dict[str, Any]:
    """`openapi_extra` for a route that takes a file: FastAPI does not see the form, because it is streamed."""
    form: dict[str, Any] = {
        "schema": {
            "type": "object",
            "required": [field],
            "additionalProperties": False,
            "properties": {field: {"type": "string", "format": "binary", "description": description}},
        }
    }
    if content_type is not None:
        form["encoding"] = {field: {"contentType": content_type}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def safe_filename(raw: str) -> str:
    """The last part of the path, without what cannot be seen or turns text around; never empty."""
    name = unicodedata.normalize("NFC", _FOLDERS.sub("", raw))
    visible = "".join(
        " " if character.isspace() else character
        for character in name
        if character.isspace() or not unicodedata.category(character).startswith("C")
    )
    name = " ".join(visible.split()).lstrip(". ")
    if len(name) > MAX_FILENAME_LENGTH:
        ending = PurePosixPath(name).suffix[:20]
        name = name[: MAX_FILENAME_LENGTH - len(ending)].rstrip() + ending
    return name or _NAMELESS


class _Form:
    """The form as it is parsed: at most one read of the request ahead of who takes the pieces."""

    def __init__(
        self, request: Request, *, field: str, max_bytes: int, types: Collection[str] | None
    ) -> None:
        self._field = field
        self._max_bytes = max_bytes
        self._types = types
        self._stream = request.stream()
        self._parser = MultipartParser(
            _boundary(request.headers.get("content-type")),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0
        self._has_file = False
        self._is_whole = False
        self.filename = _NAMELESS
        self.content_type: str | None = None

    async def read_head(self) -> None:
        while not self._has_file:
            if not await self._read():
                self._raise_unless_whole()
                raise self._wrong("is missing: send the file in it", "missing")

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if not await self._read():
                break
        self._raise_unless_whole()

    async def _read(self) -> bool:
        """Takes in what comes next; False at the end of the body."""
        try:
            data = await anext(self._stream, None)
        except ClientDisconnect:
            raise _broken("The upload was broken off") from None
        if data is None:
            return False
        if data:
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise _broken(f"The form cannot be read: {error}") from None
        return True

    def _raise_unless_whole(self) -> None:
        if not self._is_whole:
            raise _broken("The form ends before its closing boundary: the upload is incomplete")

    # -- called by the parser -----------------------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != self._field:
            shown = safe_filename(name)[:50]
            raise _unacceptable(
                f"body.{shown}", f"there is no such field; send only '{self._field}'", "extra"
            )
        if self._has_file:
            raise self._wrong("was sent twice; send one file", "multiple")
        if b"filename" not in options:
            raise self._wrong("must be a file, with a filename", "file_type")
        self.content_type = self._checked_type()
        filename = options[b"filename"].decode("utf-8", "replace")
        for escaped, character in _ESCAPED.items():
            filename = filename.replace(escaped, character)
        self.filename = safe_filename(filename)
        self._has_file = True

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._size_bytes += end - start
        if self._size_bytes > self._max_bytes:
            raise PayloadTooLargeException(
                f"The file is larger than the {self._max_bytes} bytes allowed here", headers=_CLOSE
            )
        self._pieces.append(data[start:end])

    def _on_end(self) -> None:
        self._is_whole = True

    # -- what can be wrong --------------------------------------------------------------------------

    def _checked_type(self) -> str | None:
        raw = self._headers.get(b"content-type")
        if raw is None:
            return None
        content_type = parse_options_header(raw)[0].decode("latin-1")
        if self._types is not None and content_type not in self._types:
            shown = _UNUSUAL_IN_TYPE.sub("?", content_type[:MAX_TYPE_LENGTH]) or "nothing"
            taken = ", ".join(sorted(self._types))
            raise self._wrong(f"says that it is {shown}; taken are {taken}", "content_type")
        return content_type[:MAX_TYPE_LENGTH]

    def _wrong(self, message: str, kind: str) -> APIException:
        return _unacceptable(f"body.{self._field}", message, kind)


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise APIException(
            "Send the file as multipart/form-data", 415, "UNSUPPORTED_MEDIA_TYPE", headers=_CLOSE
        )
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046 section 5.1.1
        raise _broken("The Content-Type of the form needs a boundary of 1 to 70 characters")
    return boundary


def _broken(message: str) -> APIException:
    return APIException(message, 400, "MALFORMED_UPLOAD", headers=_CLOSE)


def _unacceptable(location: str, message: str, kind: str) -> APIException:
    problem = FieldProblem(location, message, kind)
    return APIException(str(problem), 422, "VALIDATION_ERROR", headers=_CLOSE, problems=[problem])
