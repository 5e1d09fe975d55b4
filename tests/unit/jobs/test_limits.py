"""JSON in and out of jobs, and its limits."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel
from scalable_fastapi_system.jobs.limits import Limits, ResultTooLargeError, decode, encode
from scalable_fastapi_system.kit.errors import PayloadTooLargeException, ValidationException

LIMITS = Limits(args_bytes=1000, result_bytes=500)


class Thing(BaseModel):
    name: str


def test_what_handlers_return_becomes_json() -> None:
    value = {"id": UUID(int=1), "at": datetime(2026, 1, 1, tzinfo=UTC), "thing": Thing(name="x"), "set": {1}}
    assert decode(encode(value)) == {
        "id": str(UUID(int=1)), "at": "2026-01-01T00:00:00Z", "thing": {"name": "x"}, "set": [1]
    }  # fmt: skip


@pytest.mark.parametrize("value", [object(), {"a": "b\x00c"}, {"a\x00": 1}, ["\x00"]])
def test_what_cannot_be_stored_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"U\+0000|serialize"):
        encode(value)


def test_an_escaped_backslash_is_no_nul() -> None:
    assert decode(encode({"path": "C:\\u0000"})) == {"path": "C:\\u0000"}


def test_over_the_limit_is_an_error_of_its_own() -> None:
    assert LIMITS.check_args(b"x" * 1000) == "x" * 1000
    with pytest.raises(PayloadTooLargeException):
        LIMITS.check_args(b"x" * 1001)
    assert LIMITS.encode_result(None) is None
    assert LIMITS.encode_result("x" * 498) == '"' + "x" * 498 + '"'
    with pytest.raises(ResultTooLargeError):
        LIMITS.encode_result("x" * 499)
    with pytest.raises(ValidationException):
        LIMITS.encode_progress({"text": "x" * 5000})


@example("\N{GRINNING FACE}" * 10_000)
@example("\x01" * 10_000)
@given(st.text(max_size=20_000))
def test_an_error_fits_whatever_its_message_holds(message: str) -> None:
    try:
        raise ValueError(message)
    except ValueError as error:
        report = LIMITS.encode_error(error, attempt=3)
    assert len(report) <= LIMITS.error_bytes
    value = orjson.loads(report)
    assert value["type"] == "ValueError"
    assert value["attempt"] == 3
    assert "\x00" not in report


def test_the_end_of_a_traceback_is_kept() -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError("at the bottom")
        deep(level - 1)

    try:
        deep(300)
    except ValueError as error:
        value = orjson.loads(LIMITS.encode_error(error, attempt=1))
    assert value["traceback"].rstrip().endswith("ValueError: at the bottom")
