"""Blame, hints, signatures, summaries, errors of the store: what needs no store to be judged."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.jobs import JobState
from scalable_fastapi_system.jobs.background import process_data, summarize
from scalable_fastapi_system.jobs.engine import is_store_away
from scalable_fastapi_system.jobs.enqueueing import call
from scalable_fastapi_system.jobs.hints import Keys, parse_member
from scalable_fastapi_system.jobs.processes import _line_of
from scalable_fastapi_system.jobs.records import Hint
from scalable_fastapi_system.jobs.store.base import SweepRules
from scalable_fastapi_system.jobs.store.silence import blame, state_after_crash
from scalable_fastapi_system.jobs.webhooks import sign
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

RULES = SweepRules(("default",), (), True, 10.0, 3, 1.0, 100)


def test_the_first_crash_is_everybodys_and_the_next_only_the_suspects() -> None:
    assert blame([("w", 0), ("w", 0)], set()) == [True, True]
    assert blame([("w", 1), ("w", 0), ("w", 0)], set()) == [True, False, False]
    assert blame([("w", 2), ("w", 1), ("v", 1)], set()) == [True, False, True]


def test_a_worker_that_beats_did_not_crash() -> None:
    assert blame([("alive", 0), ("dead", 0)], {"alive"}) == [False, True]


def test_where_a_job_goes_after_its_worker() -> None:
    def after(crashes: int, *, is_blamed: bool = True, is_cancelled: bool = False) -> JobState:
        return state_after_crash(crashes, is_blamed=is_blamed, is_cancelled=is_cancelled, rules=RULES)

    assert after(2) is JobState.QUEUED
    assert after(3) is JobState.QUARANTINED
    assert after(5, is_blamed=False) is JobState.QUEUED
    assert after(3, is_cancelled=True) is JobState.CANCELLED


@given(st.uuids(), st.integers(0, 10**6))
def test_a_hint_names_its_job_and_attempt(job_id: UUID, attempt: int) -> None:
    hint = Hint(job_id, attempt, "default")
    assert parse_member(hint.member) == job_id
    assert hint.member.endswith(f".{attempt}")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("boom")


def test_a_line_out_of_a_process_is_written_whatever_is_in_it() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    line = orjson.loads(_line_of({"event": "e", "bad": Unshowable(), "deep": deep, "half": "\ud800"}))
    assert line["event"] == "e"
    assert line["bad"] == "<Unshowable whose repr raised RuntimeError>"
    assert line["deep"] == "<list whose repr raised RecursionError>"


@pytest.mark.parametrize("member", ["", "~", "job:1", "zz.1"])
def test_what_is_no_hint_is_passed_over(member: str) -> None:
    assert parse_member(member) is None


def test_the_keys_of_a_queue_share_a_hash_tag() -> None:
    assert all("{jobs}" in key for key in Keys("sfs").of("mail"))


def test_a_signature_is_that_of_standard_webhooks() -> None:
    # the example of the Standard Webhooks specification
    key = {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    moment = datetime.fromtimestamp(1614265330, tz=UTC)
    signature = sign("msg_p5jXN8AQM9LWM0D4loKWxJek", moment, b'{"test": 2432232314}', [key])
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_data_are_described() -> None:
    found = summarize({"id": "a", "points": [{"x": 1}, {"x": 3.0}], "name": None, "ok": True})
    assert found["numbers"] == {"points.x": {"count": 2, "min": 1, "max": 3, "mean": 2, "median": 2}}
    assert found["types"] == {"array": 1, "boolean": 1, "null": 1, "number": 2, "object": 3, "string": 1}
    assert (found["depth"], found["values"], found["fields"]) == (3, 5, 4)


def test_deep_data_are_described_without_recursion() -> None:
    data: dict[str, object] = {}
    inner = data
    for _ in range(200):
        inner["a"] = {}
        inner = inner["a"]  # type: ignore[assignment]
    assert summarize(data)["depth"] == 200


def test_data_under_a_long_name_cost_no_more_than_their_size() -> None:
    data = {"k" * 100_000: {str(number): number for number in range(500)}, "n": 1}
    tracemalloc.start()
    try:
        found = summarize(process_data.arguments.validate_python({"data": data})["data"])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5_000_000
    assert (found["types"], list(found["numbers"])) == ({"number": 501, "object": 2}, ["n"])


def test_of_many_fields_the_first_have_their_numbers_described() -> None:
    found = summarize({f"field {number:03}": number for number in range(300)})
    assert list(found["numbers"]) == [f"field {number:03}" for number in range(200)]


@pytest.mark.parametrize(
    ("error", "is_away"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.AdminShutdownError("bye"), True),
        (asyncpg.DeadlockDetectedError("x"), True),
        (asyncpg.InterfaceError("closed"), True),
        (ServiceUnavailableException(), True),
        (asyncpg.UniqueViolationError("x"), False),
        (asyncpg.UndefinedTableError("x"), False),
        (ValueError("x"), False),
    ],
)
def test_which_errors_of_the_store_pass_by_themselves(error: Exception, is_away: bool) -> None:
    assert is_store_away(error) is is_away


def test_a_call_tells_options_from_arguments() -> None:
    one = call("shop.ship", owner_id=3, order_id=7, priority=-1)
    assert (one.options.owner_id, one.options.priority, dict(one.arguments)) == (3, -1, {"order_id": 7})
