"""The limiter in one process, without Redis and with a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.infra.rate_limit import Decision, Policy, RateLimiter
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import RedisSettings


class Clock:
    """Both clocks of a limiter; `at` is Unix seconds, and a minute begins at 0."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter_with(clock: Clock, **options: int) -> RateLimiter:
    return RateLimiter(RedisConnections(RedisSettings()), monotonic=clock, wall=clock, **options)  # type: ignore[arg-type]


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return limiter_with(clock)


def decide(
    limiter: RateLimiter, policy: Policy, identity: str = "user:1", route: str = "/things"
) -> Decision:
    decision = limiter.check(policy, identity, route)
    assert isinstance(decision, Decision), "without Redis there is nobody to wait for"
    return decision


FIVE = Policy.parse("user", "5/minute")


def test_the_quota_is_admitted_and_no_more(limiter: RateLimiter) -> None:
    decisions = [decide(limiter, FIVE) for _ in range(8)]
    assert [decision.is_allowed for decision in decisions] == [True] * 5 + [False] * 3
    assert [decision.remaining for decision in decisions] == [4, 3, 2, 1, 0, 0, 0, 0]


def test_the_headers_are_the_ietfs(limiter: RateLimiter, clock: Clock) -> None:
    clock.at += 20.5
    assert decide(limiter, FIVE).headers() == [
        (b"ratelimit-policy", b'"user";q=5;w=60'),
        (b"ratelimit", b'"user";r=4;t=40'),
    ]
    for _ in range(4):
        decide(limiter, FIVE)
    assert decide(limiter, FIVE).headers() == [
        (b"ratelimit-policy", b'"user";q=5;w=60'),
        (b"ratelimit", b'"user";r=0;t=40'),
        (b"retry-after", b"40"),
    ]


def test_who_waits_as_long_as_told_is_admitted(limiter: RateLimiter, clock: Clock) -> None:
    for _ in range(5):
        decide(limiter, FIVE)
    refused = decide(limiter, FIVE)
    clock.at += refused.retry_after_seconds
    assert decide(limiter, FIVE).is_allowed


def test_a_window_used_up_at_its_end_is_not_given_again_at_once(limiter: RateLimiter, clock: Clock) -> None:
    clock.at += 59
    assert sum(decide(limiter, FIVE).is_allowed for _ in range(9)) == 5
    clock.at += 2
    assert sum(decide(limiter, FIVE).is_allowed for _ in range(9)) <= 1


def test_each_identity_route_and_policy_has_its_own(limiter: RateLimiter) -> None:
    one = Policy.parse("user", "1/minute")
    assert decide(limiter, one).is_allowed
    assert not decide(limiter, one).is_allowed
    assert decide(limiter, one, identity="user:2").is_allowed
    assert decide(limiter, one, route="/others").is_allowed
    assert decide(limiter, Policy.parse("auth", "1/minute")).is_allowed
    assert decide(limiter, Policy.parse("user", "2/minute")).is_allowed


def test_of_several_rates_the_tightest_decides_and_is_told(limiter: RateLimiter, clock: Clock) -> None:
    policy = Policy.parse("user", "2/second;3/minute")
    first, second, third = (decide(limiter, policy) for _ in range(3))
    assert [first.is_allowed, second.is_allowed, third.is_allowed] == [True, True, False]
    assert b'"user-1s";r=0;t=1' in dict(third.headers())[b"ratelimit"]
    clock.at += 2
    assert decide(limiter, policy).is_allowed
    last = decide(limiter, policy)
    assert not last.is_allowed
    assert dict(last.headers())[b"ratelimit"].startswith(b'"user-60s";r=0')


def test_the_table_is_bounded_and_forgets_the_one_seen_longest_ago(clock: Clock) -> None:
    limiter = limiter_with(clock, max_buckets=100)
    one = Policy.parse("anonymous", "1/minute")
    for number in range(1000):
        decide(limiter, one, identity=f"address:{number}")
        assert not decide(
            limiter, one, identity="address:constant" if number else "address:0"
        ).is_allowed or (number == 1)
    assert len(limiter._buckets) == 100


@given(steps=st.lists(st.tuples(st.floats(0, 90), st.integers(1, 12)), max_size=40))
def test_never_more_than_the_quota_in_an_aligned_minute(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    limiter = limiter_with(clock)
    admitted: dict[int, int] = {}
    for pause, tries in steps:
        clock.at += pause
        for _ in range(tries):
            if decide(limiter, FIVE).is_allowed:
                minute = int(clock.at // 60)
                admitted[minute] = admitted.get(minute, 0) + 1
    assert all(count <= 5 for count in admitted.values())
