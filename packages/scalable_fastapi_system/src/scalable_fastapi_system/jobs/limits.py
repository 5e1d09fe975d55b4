"""JSON in and out of jobs, with limits that are told and never applied by cutting (rule 13).

Arguments over the limit refuse the enqueue (413), a result over it fails the job, progress over it raises in the
handler. Only an error's own text is shortened, and it says so.
"""

from __future__ import annotations

import json
import re
import traceback
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic_core import PydanticSerializationError, to_json

from scalable_fastapi_system.infra.settings import JobSettings
from scalable_fastapi_system.jobs.errors import JobUsageError
from scalable_fastapi_system.kit.errors import PayloadTooLargeException, ValidationException

MAX_ERROR_BYTES = 8 * 1024
MAX_PROGRESS_BYTES = 4 * 1024
MAX_MESSAGE_CHARACTERS = 2000
MAX_MESSAGE_BYTES = MAX_ERROR_BYTES // 2  # as JSON, which may write a character in twelve bytes
# PostgreSQL's jsonb has no place for this character.
_NUL = b"\\u0000"
# The columns of `jobs`: a small integer, a name.
MAX_ATTEMPTS = 32_767
MAX_QUEUE_LENGTH = 64
MAX_KEY_LENGTH = 120
MIN_PRIORITY, MAX_PRIORITY = -100, 100
# A hundred years: more is a mistake, and ends beyond the years that a datetime has.
MAX_SECONDS = 3_153_600_000
LEAST_TIMEOUT_SECONDS = 1e-6
_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # what has more than 64 bits has as many


class ResultTooLargeError(JobUsageError):
    """A handler returned more than `JOBS__MAX_RESULT_BYTES`. Store large results as files and return their id."""


def encode(value: Any) -> bytes:
    """JSON of plain values, pydantic models, dataclasses, dates, UUIDs. Raises ValueError for anything else."""
    try:
        raw = to_json(value, inf_nan_mode="null")
    except PydanticSerializationError as error:
        raise ValueError(str(error)) from None
    if _NUL in raw and _holds_nul(orjson.loads(raw)):
        raise ValueError("the character U+0000 cannot be stored")
    return raw


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)


def refuse_long_integers(raw: bytes) -> None:
    """Raises ValueError for JSON with an integer beyond 64 bits: it would be read as a float, another number."""
    if _LONG_NUMBER.search(raw):
        json.loads(raw, parse_int=_within_64_bits)


def _within_64_bits(digits: str) -> None:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"an integer has at most 64 bits, {digits[:40]} has more: pass it as text")


def is_within(value: object, least: int, most: int) -> bool:
    """Whether this is a whole number within these bounds; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_seconds(value: object, *, least: float) -> bool:
    """Whether this is a number of seconds from `least` up to a hundred years."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= MAX_SECONDS


def decode(text: str | bytes | None) -> Any:
    """The value of JSON text, None for none."""
    return None if text is None else orjson.loads(text)


@dataclass(frozen=True, slots=True)
class Limits:
    """How large the parts of a job may be, in bytes of JSON."""

    args_bytes: int
    result_bytes: int
    error_bytes: int = MAX_ERROR_BYTES
    progress_bytes: int = MAX_PROGRESS_BYTES

    @classmethod
    def of(cls, settings: JobSettings) -> Limits:
        return cls(args_bytes=settings.max_args_bytes, result_bytes=settings.max_result_bytes)

    def check_args(self, raw: bytes) -> str:
        """The arguments as text. Raises PayloadTooLargeException over the limit."""
        if len(raw) > self.args_bytes:
            raise PayloadTooLargeException(
                f"The job's arguments are {len(raw)} bytes, more than {self.args_bytes}: "
                "store the data and pass its id"
            )
        return raw.decode()

    def encode_result(self, value: Any) -> str | None:
        """A result as text, None for None. Raises ResultTooLargeError over the limit, ValueError where it is not JSON."""
        if value is None:
            return None
        raw = encode(value)
        if len(raw) > self.result_bytes:
            raise ResultTooLargeError(
                f"the result is {len(raw)} bytes, more than {self.result_bytes}: store it and return its id"
            )
        return raw.decode()

    def encode_progress(self, value: Any) -> str:
        """Progress as text. Raises ValidationException over the limit."""
        raw = encode(value)
        if len(raw) > self.progress_bytes:
            raise ValidationException(
                f"Progress is {len(raw)} bytes, more than {self.progress_bytes}", field="progress"
            )
        return raw.decode()

    def encode_error(self, error: BaseException, *, attempt: int) -> str:
        """What is kept of an exception: its type, its message, the end of its traceback; within the limit."""
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        trace = "".join(lines)
        report = {
            "type": type(error).__qualname__,
            "message": _shortened(_text_of(error)),
            "attempt": attempt,
        }
        room = self.error_bytes - len(_clean_json(report)) - 200
        encoded = trace.encode("utf-8", "replace")
        if len(_clean_json(trace)) > room:
            # escaping can make text longer: halve until it fits
            keep = room
            while keep > 0 and len(_clean_json(encoded[-keep:].decode("utf-8", "ignore"))) > room:
                keep //= 2
            trace = f"… (the last {keep} of {len(encoded)} bytes)\n" + encoded[-keep:].decode(
                "utf-8", "ignore"
            )
        report["traceback"] = trace
        return _clean_json(report).decode()

    def note(self, kind: str, message: str, *, attempt: int) -> str:
        """An error that is no exception: `kind` stands where a type would."""
        return _clean_json({"type": kind, "message": _shortened(message), "attempt": attempt}).decode()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:  # noqa: BLE001 - somebody's `__str__`
        return f"its text cannot be had: {type(problem).__name__}"


def _shortened(message: str) -> str:
    keep = min(len(message), MAX_MESSAGE_CHARACTERS)
    while len(_clean_json(message[:keep])) > MAX_MESSAGE_BYTES:
        keep //= 2
    return message if keep == len(message) else f"{message[:keep]}… ({len(message)} characters)"


def _clean_json(value: Any) -> bytes:
    return orjson.dumps(_without_nul(value))


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        # lone surrogates cannot be encoded either
        return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return {key: _without_nul(item) for key, item in value.items()} if isinstance(value, dict) else value
