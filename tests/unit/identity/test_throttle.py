"""Row 14: guessing is slowed down by name, address and globally, and nobody can lock a victim out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from scalable_fastapi_system.identity.throttle import Budget, LocalAttempts, SignInThrottle
from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.errors import RateLimitExceededException

PER_MINUTE = 10


class Wall:
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment


class Monotonic:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic()


@pytest.fixture
def throttle(clock: Monotonic) -> SignInThrottle:
    return SignInThrottle(SecuritySettings(login_attempts_per_minute=PER_MINUTE), LocalAttempts(clock))


async def never() -> bool:
    return False


async def always() -> bool:
    return True


async def let_through(
    throttle: SignInThrottle,
    name: str,
    address: str | None,
    *,
    times: int,
    is_known: object = never,
    **more: str,
) -> int:
    """How many of so many attempts are let through."""
    admitted, waits = 0, []
    for _ in range(times):
        try:
            await throttle.admit(name, address, is_known_address=is_known, **more)  # type: ignore[arg-type]
            admitted += 1
        except RateLimitExceededException as refused:
            waits.append(int(refused.headers["Retry-After"]))
    assert all(wait >= 1 for wait in waits)
    return admitted


async def test_one_address_may_try_one_name_ten_times_and_then_once_every_six_seconds(
    throttle: SignInThrottle, clock: Monotonic
) -> None:
    assert await let_through(throttle, "ada", "192.0.2.1", times=15) == PER_MINUTE
    clock.now += 6
    assert await let_through(throttle, "ada", "192.0.2.1", times=5) == 1
    clock.now += 60
    assert await let_through(throttle, "ada", "192.0.2.1", times=15) == PER_MINUTE


async def test_victim_gets_in_from_elsewhere_while_someone_guesses(throttle: SignInThrottle) -> None:
    await let_through(throttle, "ada", "192.0.2.1", times=100)
    assert await let_through(throttle, "ada", "198.51.100.7", times=1) == 1


async def test_name_in_other_letters_shares_the_budget(throttle: SignInThrottle) -> None:
    assert await let_through(throttle, "ada", "192.0.2.1", times=6) == 6
    assert await let_through(throttle, "ADA", "192.0.2.1", times=6) == 4


async def test_one_address_that_tries_many_names_is_stopped(throttle: SignInThrottle) -> None:
    admitted = 0
    for number in range(100):
        admitted += await let_through(throttle, f"user{number}", "192.0.2.1", times=1)
    assert admitted == 6 * PER_MINUTE


async def test_many_addresses_that_try_one_name_are_stopped(throttle: SignInThrottle) -> None:
    admitted = 0
    for number in range(200):
        admitted += await let_through(throttle, "ada", f"192.0.2.{number}", times=1)
    assert admitted == 6 * PER_MINUTE


async def test_victim_gets_in_from_a_known_address_while_many_addresses_guess(
    throttle: SignInThrottle,
) -> None:
    for number in range(200):
        await let_through(throttle, "ada", f"192.0.2.{number}", times=1)
    assert await let_through(throttle, "ada", "198.51.100.7", times=1) == 0
    assert await let_through(throttle, "ada", "198.51.100.7", times=1, is_known=always) == 1


async def test_victim_gets_in_by_the_cookie_of_an_earlier_sign_in_even_from_the_guessers_address(
    throttle: SignInThrottle,
) -> None:
    cookie = throttle.device_cookie(1, "Bea", "Ada")
    await let_through(throttle, "ada", "192.0.2.1", times=100)
    assert await let_through(throttle, "ada", "192.0.2.1", times=1, device=cookie) == 1


async def test_cookie_of_another_or_of_nobody_is_worth_nothing(throttle: SignInThrottle) -> None:
    await let_through(throttle, "ada", "192.0.2.1", times=100)
    for cookie in (throttle.device_cookie(1, "bob"), "", "a.b", "é.b", "a.b.c"):
        assert await let_through(throttle, "ada", "192.0.2.1", times=1, device=cookie) == 0


async def test_stolen_cookie_has_a_budget_too(throttle: SignInThrottle) -> None:
    cookie = throttle.device_cookie(1, "ada")
    admitted = await let_through(throttle, "ada", "192.0.2.1", times=100, device=cookie)
    assert admitted == 2 * PER_MINUTE, "its own, and then that of the address"


async def test_stolen_cookie_has_one_budget_whatever_is_hung_on_to_it(throttle: SignInThrottle) -> None:
    cookie = throttle.device_cookie(1, "Bea", "Ada")
    admitted = 0
    for number in range(100):
        admitted += await let_through(throttle, "ada", "192.0.2.1", times=1, device=f"{cookie}.{number}")
    assert admitted == 2 * PER_MINUTE


async def test_all_cookies_of_one_user_have_a_budget_together(throttle: SignInThrottle) -> None:
    """Who knew the password once may have signed in, and got a cookie, as often as they liked."""
    await let_through(throttle, "ada", "192.0.2.1", times=100)
    admitted = 0
    for _ in range(30):
        cookie = throttle.device_cookie(1, "ada")
        admitted += await let_through(throttle, "ada", "192.0.2.1", times=10, device=cookie)
    assert admitted == 6 * PER_MINUTE


async def test_cookie_is_good_for_ninety_days() -> None:
    wall = Wall()
    settings = SecuritySettings(login_attempts_per_minute=PER_MINUTE)
    throttle = SignInThrottle(settings, LocalAttempts(Monotonic()), clock=wall)
    cookie = throttle.device_cookie(1, "ada")
    await let_through(throttle, "ada", "192.0.2.1", times=100)
    wall.moment += timedelta(days=90, seconds=-1)
    assert await let_through(throttle, "ada", "192.0.2.1", times=1, device=cookie) == 1
    wall.moment += timedelta(seconds=1)
    assert await let_through(throttle, "ada", "192.0.2.1", times=1, device=cookie) == 0


async def test_everyone_together_is_stopped_at_a_hundred_times_the_budget_of_one(
    throttle: SignInThrottle,
) -> None:
    admitted = 0
    for number in range(1500):
        admitted += await let_through(
            throttle, f"user{number}", f"10.0.{number // 250}.{number % 250}", times=1
        )
    assert admitted == 100 * PER_MINUTE
    assert await let_through(throttle, "someone", "198.51.100.7", times=1, is_known=always) == 1


async def test_success_costs_nothing(throttle: SignInThrottle) -> None:
    for _ in range(10 * PER_MINUTE):
        attempt = await throttle.admit("ada", "192.0.2.1", is_known_address=never)
        await throttle.give_back(attempt)


async def test_addresses_of_one_ipv6_customer_count_as_one(throttle: SignInThrottle) -> None:
    admitted = 0
    for number in range(30):
        admitted += await let_through(throttle, "ada", f"2001:db8:1:2::{number:x}", times=1)
    assert admitted == PER_MINUTE
    assert await let_through(throttle, "ada", "2001:db8:1:3::1", times=1) == 1


async def test_ipv4_in_ipv6_clothes_is_the_same_address(throttle: SignInThrottle) -> None:
    assert await let_through(throttle, "ada", "192.0.2.1", times=5) == 5
    assert await let_through(throttle, "ada", "::ffff:192.0.2.1", times=10) == 5


@pytest.mark.parametrize("address", [None, "testclient", "/run/socket"])
async def test_address_that_is_none_is_still_counted(throttle: SignInThrottle, address: str | None) -> None:
    assert await let_through(throttle, "ada", address, times=20) == PER_MINUTE


async def test_three_messages_may_be_sent_to_an_address_at_once(
    throttle: SignInThrottle, clock: Monotonic
) -> None:
    assert [await throttle.admit_message("Ada@example.com") for _ in range(4)] == [True, True, True, False]
    assert not await throttle.admit_message("ada@example.com")
    clock.now += 600
    assert await throttle.admit_message("ada@example.com")


async def test_refused_attempt_takes_from_no_budget(clock: Monotonic) -> None:
    store = LocalAttempts(clock)
    small, large = Budget("small", 1.0, 1), Budget("large", 1.0, 3)
    assert await store.spend((small, large)) == 0.0
    for _ in range(5):
        assert await store.spend((small, large)) == pytest.approx(1.0)
    assert [await store.spend((large,)) for _ in range(2)] == [0.0, 0.0]
    assert await store.spend((large,)) > 0.0


async def test_memory_stays_bounded_however_many_names_are_tried(
    clock: Monotonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.identity.throttle._MAX_LOCAL_KEYS", 100)
    store = LocalAttempts(clock)
    for number in range(1000):
        await store.spend((Budget(str(number), 1000.0, 5),))
    assert len(store._full_at) <= 100
