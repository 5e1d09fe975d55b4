"""Which policy holds for whom."""

from __future__ import annotations

import pytest
from scalable_fastapi_system.infra.rate_limit import Policies, Policy, Rate
from scalable_fastapi_system.infra.rate_limit.policies import class_of
from scalable_fastapi_system.infra.settings import RateLimitSettings
from scalable_fastapi_system.kit.errors import ConfigurationError


def test_a_text_becomes_rates_and_the_ietf_header() -> None:
    policy = Policy.parse("user", "1000/minute")
    assert policy.rates == (Rate(1000, 60, "user"),)
    assert policy.header == (b"ratelimit-policy", b'"user";q=1000;w=60')


def test_several_rates_hold_together_under_names_of_their_own() -> None:
    policy = Policy.parse("user", "10/second; 1000 per 2 hours")
    assert policy.rates == (Rate(10, 1, "user-1s"), Rate(1000, 7200, "user-7200s"))
    assert policy.header[1] == b'"user-1s";q=10;w=1, "user-7200s";q=1000;w=7200'


@pytest.mark.parametrize("text", ["", "many", "10", "0/minute", "-1/minute", "10/fortnight", "10/minute;x"])
def test_what_is_no_rate_is_refused_by_its_variable(text: str) -> None:
    with pytest.raises(ConfigurationError, match="RATE_LIMIT__USER"):
        Policies(RateLimitSettings(user=text))


def test_a_name_cannot_be_given_twice() -> None:
    with pytest.raises(ConfigurationError, match="auth"):
        Policies(RateLimitSettings(policies={"auth": "1/minute"}))


@pytest.mark.parametrize(
    ("kind", "role", "expected"),
    [
        (None, None, "anonymous"),
        ("user", "user", "user"),
        ("user", None, "user"),
        ("user", "admin", "admin"),
        ("api_key", "user", "api_key"),
        ("api_key", None, "api_key"),
        ("api_key", "admin", "admin"),
    ],
)
def test_callers_have_a_class(kind: str | None, role: str | None, expected: str) -> None:
    assert class_of(kind=kind, role=role) == expected


def test_a_route_has_its_policy_by_mark_by_rate_or_by_the_settings() -> None:
    policies = Policies(
        RateLimitSettings(
            policies={"reports": "5/minute"},
            routes={"POST /things": "reports", "/both": "7/second", "/marked": "9/hour"},
        )
    )

    def of(method: str, template: str, mark: str | None = None) -> str | None:
        found = policies.of_route(method, template, mark)
        return None if found is None else found.key

    assert of("GET", "/things") is None
    assert of("POST", "/things") == "reports:5/60"
    assert of("GET", "/both") == of("PUT", "/both") == "route:7/1"
    assert of("GET", "/x", "auth") == "auth:20/60"
    assert of("GET", "/x", "3/minute") == "route:3/60"
    assert of("GET", "/marked", "auth") == "route:9/3600", (
        "who runs the service is stronger than who wrote it"
    )
    assert policies.of_route("GET", "/x", "auth") is policies.of_class("auth")
    assert policies.of_class("auth").is_by_address


def test_a_mark_that_names_no_policy_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        Policies(RateLimitSettings()).of_route("GET", "/x", "nonsense")
