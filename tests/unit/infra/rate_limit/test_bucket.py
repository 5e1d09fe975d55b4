"""What a bucket owes Redis: told until Redis has charged it, once, and no longer than its window."""

from __future__ import annotations

from scalable_fastapi_system.infra.rate_limit import Policy
from scalable_fastapi_system.infra.rate_limit.bucket import Bucket
from scalable_fastapi_system.infra.rate_limit.store import Ask, Grant

# A minute and an hour begin here, by the server's clock.
SERVER_START = 1_800_000_000.0


def bucket_of(rates: str) -> Bucket:
    policy = Policy.parse("user", rates)
    return Bucket(policy, tuple(rate.name for rate in policy.rates))


def admit_alone(bucket: Bucket, *, at: float, times: int = 1) -> None:
    for _ in range(times):
        assert bucket.decide_alone(at, SERVER_START + at, is_owed=True).is_allowed


def ask(bucket: Bucket, *, at: float, waiting: int = 0) -> Ask:
    return bucket.ask(waiting, at, SERVER_START + at)


def answer(bucket: Bucket, asked: Ask, *, at: float, given: int = 0) -> None:
    counts = tuple((0, 0) for _ in asked.rates)
    bucket.take(asked, Grant(given, counts), sent=at, now=at, server_now=SERVER_START + at)


def amounts(asked: Ask) -> list[int]:
    return [owed.amount for owed in asked.owed]


def test_a_question_that_fails_loses_nothing_of_what_is_owed() -> None:
    bucket = bucket_of("60/minute")
    admit_alone(bucket, at=1, times=3)
    failed = ask(bucket, at=2)
    admit_alone(bucket, at=3)
    again = ask(bucket, at=4)
    assert (amounts(failed), amounts(again)) == ([3], [4])
    assert failed.owed[0].account == again.owed[0].account, "so Redis can tell what it has charged already"


def test_what_was_charged_is_not_told_again() -> None:
    bucket = bucket_of("60/minute")
    admit_alone(bucket, at=1, times=3)
    answer(bucket, ask(bucket, at=2), at=2)
    assert amounts(ask(bucket, at=3)) == [0]
    admit_alone(bucket, at=4)
    assert amounts(ask(bucket, at=5)) == [4], "a sum that only grows"


def test_what_is_owed_lapses_with_its_window() -> None:
    bucket = bucket_of("60/minute")
    admit_alone(bucket, at=59)
    late = ask(bucket, at=59)
    assert amounts(ask(bucket, at=61)) == [0]
    admit_alone(bucket, at=62)
    answer(bucket, late, at=62)
    assert amounts(ask(bucket, at=63)) == [1], "the answer was about the window before"


def test_each_rate_is_owed_until_its_own_window_ends() -> None:
    bucket = bucket_of("10/second;1000/hour")
    admit_alone(bucket, at=1)
    assert amounts(ask(bucket, at=1.5)) == [1, 1]
    assert amounts(ask(bucket, at=3)) == [0, 1]


def test_an_answer_that_came_too_late_pays_for_who_did_not_wait_for_it() -> None:
    bucket = bucket_of("60/minute")
    asked = ask(bucket, at=1, waiting=1)
    admit_alone(bucket, at=1, times=2)
    answer(bucket, asked, at=2, given=1)
    assert bucket.tokens == 0
    assert amounts(ask(bucket, at=3)) == [1]
