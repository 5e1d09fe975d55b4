"""The bytes of an upload as UTF-8 text with one kind of line end.

UTF-8, UTF-16 with its byte order mark, and Windows-1252 (which any byte sequence nearly is, so it is taken only
where no part of the file looks like UTF-8). A file that is so already is left as it is; any other is rewritten.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from domains.datasets.profiling.errors import UnreadableTableError
from domains.datasets.profiling.limits import MIB

_BLOCK_BYTES = MIB
_NOT_TEXT = "The file is not text. Save the table as CSV in UTF-8."

Tick = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Text:
    """A file of UTF-8 text. `encoding` is what the upload was in, `newline` what ends its lines now."""

    path: Path
    encoding: str
    newline: str


def prepare(source: Path, target: Path, tick: Tick) -> Text:
    """The source itself, or a rewritten copy at `target`. `tick` hears the share done and may raise to stop.

    Raises UnreadableTableError for what is empty or no text.
    """
    size = source.stat().st_size
    encoding = _encoding_of(source)
    line_ends = _LineEnds()
    try:
        blank = _scan(source, encoding, size, line_ends, tick)
    except _NotUtf8Error as error:
        if error.has_utf8_before:
            raise UnreadableTableError(
                f"Line {line_ends.lines + 1} is not valid UTF-8. Save the table again as CSV in UTF-8."
            ) from None
        encoding = "cp1252"
        line_ends = _LineEnds()
        blank = _scan(source, encoding, size, line_ends, tick)
    if blank:
        raise UnreadableTableError(
            "The file is empty: it needs at least a line with the names of the columns."
        )
    newline = line_ends.only_kind
    if encoding in {"utf-8", "utf-8-sig"} and newline is not None:
        return Text(source, encoding, newline)
    _rewrite(source, target, encoding, size, tick)
    return Text(target, "windows-1252" if encoding == "cp1252" else encoding, "\n")


class _NotUtf8Error(Exception):
    def __init__(self, *, has_utf8_before: bool) -> None:
        super().__init__()
        self.has_utf8_before = has_utf8_before


class _LineEnds:
    """Counts the three kinds of line end over blocks that may cut one in two."""

    def __init__(self) -> None:
        self.crlf = self.lf = self.cr = 0
        self._ends_in_cr = False

    @property
    def lines(self) -> int:
        return self.crlf + self.lf + self.cr

    @property
    def only_kind(self) -> str | None:
        """The one that is used (`\\n` for a single line), None where they are mixed."""
        used = [kind for kind, count in (("\r\n", self.crlf), ("\n", self.lf), ("\r", self.cr)) if count] or [
            "\n"
        ]
        return used[0] if len(used) == 1 else None

    def add(self, text: str) -> None:
        if not text:
            return
        crlf = text.count("\r\n")
        self.crlf += crlf
        self.lf += text.count("\n") - crlf
        self.cr += text.count("\r") - crlf
        if self._ends_in_cr and text[0] == "\n":
            self.crlf += 1
            self.lf -= 1
            self.cr -= 1
        self._ends_in_cr = text[-1] == "\r"


def _encoding_of(source: Path) -> str:
    with source.open("rb") as file:
        head = file.read(4)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise UnreadableTableError(_NOT_TEXT)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def _decoded(source: Path, encoding: str, size: int, tick: Tick) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    has_utf8_before = False
    with source.open("rb", buffering=0) as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                if encoding.startswith("utf-8"):
                    yield before.decode("utf-8")
                    raise _NotUtf8Error(has_utf8_before=has_utf8_before or not before.isascii()) from None
                raise UnreadableTableError(_NOT_TEXT) from None
            if "\x00" in text:
                raise UnreadableTableError(_NOT_TEXT)
            has_utf8_before = has_utf8_before or not text.isascii()
            yield text
            if not block:
                return
            done += len(block)
            tick(done / size)


def _scan(source: Path, encoding: str, size: int, line_ends: _LineEnds, tick: Tick) -> bool:
    """Counts the line ends; True where there is nothing but white space."""
    is_blank = True
    for text in _decoded(source, encoding, size, tick):
        line_ends.add(text)
        is_blank = is_blank and not text.strip("\ufeff \t\r\n")
    return is_blank


def _rewrite(source: Path, target: Path, encoding: str, size: int, tick: Tick) -> None:
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for text in _decoded(source, encoding, size, tick):
            file.write(line_ends.decode(text))
        file.write(line_ends.decode("", final=True))
