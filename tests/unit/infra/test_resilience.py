"""The breaker, the retry budget and the address guard."""

import pytest
from scalable_fastapi_system.infra.addresses import is_public
from scalable_fastapi_system.infra.resilience import CircuitBreaker, CircuitOpenError, RetryBudget


class Time:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_breaker_opens_after_failures_in_a_row_and_refuses_at_once():
    time = Time()
    breaker = CircuitBreaker("x", failures=3, open_seconds=10, monotonic=time)
    for _ in range(3):
        breaker.before_call()
        breaker.failed()
    with pytest.raises(CircuitOpenError) as caught:
        breaker.before_call()
    assert caught.value.retry_after_seconds == 10
    assert breaker.state == "open"


def test_a_success_in_between_starts_the_count_again():
    breaker = CircuitBreaker("x", failures=2)
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_half_open_lets_one_probe_through_at_a_time():
    time = Time()
    breaker = CircuitBreaker("x", failures=1, open_seconds=10, monotonic=time)
    breaker.failed()
    time.now += 10
    assert breaker.state == "half-open"
    breaker.before_call()
    with pytest.raises(CircuitOpenError):
        breaker.before_call()
    breaker.failed()
    assert breaker.state == "open"
    time.now += 10
    breaker.before_call()
    breaker.succeeded()
    assert breaker.state == "closed"


def test_retries_stay_within_a_tenth_of_the_calls():
    budget = RetryBudget(0.1, reserve=3)
    retries = 0
    for _ in range(1000):
        budget.note_call()
        retries += budget.take()
    assert retries <= 103


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "64:ff9b:1:7f00:0:100:808:808",
        "fec0::1",
        "2002:7f00:1::",
        "ff02::1",
        # inside of a cloud
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "64:ff9b::a83f:8110",
        # which Python takes for public, or did in a former patch release
        "192.0.0.8",
        "192.0.0.9",
        "192.0.0.192",
        "64:ff9b::c000:c0",
        "2001:1::1",
        "2001:2::1",
        "2001:20::1",
        "2002:808:808::",
        "3fff::1",
        "3fff:fff:ffff::1",
        # set aside, and outside of 2000::/3 from which every public address is
        "100::1",
        "100:0:0:1::1",
        "5f00::1",
        "not an address",
    ],
)
def test_an_address_inside_is_not_public_however_it_is_written(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "8.8.8.8",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "168.63.129.17",
        "192.0.1.1",
        "2001:200::1",
        "2606:2800:220:1:248:1893:25c8:1946",
    ],
)
def test_an_address_outside_is_public(address):
    assert is_public(address)
