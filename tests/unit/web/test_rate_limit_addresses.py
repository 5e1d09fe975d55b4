"""Whose word counts about where a request comes from (row 9)."""

from __future__ import annotations

from typing import Any

import pytest
from scalable_fastapi_system.kit.errors import ConfigurationError
from scalable_fastapi_system.web.client_address import ProxyTrust, client_address, rate_identity


def scope_of(peer: str | None, *forwarded: str, proto: str | None = None) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    client = None if peer is None else (peer, 1234)
    return {"type": "http", "client": client, "headers": headers, "state": {}, "scheme": "http"}


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"]])
@pytest.mark.parametrize("forwarded", ["1.2.3.4", "10.0.0.1", "127.0.0.1, 10.0.0.1", "unknown", ""])
def test_a_header_from_a_stranger_changes_nothing(trusted: list[str], forwarded: str) -> None:
    assert ProxyTrust(trusted).client_address(scope_of("203.0.113.9", forwarded)) == "203.0.113.9"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["6.6.6.6, 198.51.100.7"], "198.51.100.7"),  # what the client wrote stands left
        (["6.6.6.6", "198.51.100.7"], "198.51.100.7"),  # also in a header of its own
        (["198.51.100.7, 10.1.1.1"], "198.51.100.7"),  # through two of ours
        (["10.9.9.9, 198.51.100.7, 10.1.1.1"], "198.51.100.7"),  # posing as one of ours
        (["198.51.100.7:4711"], "198.51.100.7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["2001:DB8:0::7"], "2001:db8::7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, nonsense"], "10.0.0.5"),  # nobody of ours writes that
        ([""], "10.0.0.5"),
        ([], "10.0.0.5"),
        (["10.1.1.1, 10.1.1.2"], "10.1.1.1"),  # a request of our own
    ],
)
def test_behind_a_trusted_proxy_the_client_is_the_first_stranger_from_the_right(
    forwarded: list[str], expected: str
) -> None:
    trust = ProxyTrust(["10.0.0.0/8"])
    assert trust.client_address(scope_of("10.0.0.5", *forwarded)) == expected


def test_an_address_mapped_into_ipv6_is_the_same_proxy() -> None:
    trust = ProxyTrust(["10.0.0.5"])
    assert trust.client_address(scope_of("::ffff:10.0.0.5", "198.51.100.7")) == "198.51.100.7"


def test_the_address_is_noted_once_and_read_from_there() -> None:
    trust = ProxyTrust(["10.0.0.0/8"])
    scope = scope_of("10.0.0.5", "198.51.100.7", proto="https")
    trust.note(scope)
    assert scope["state"]["client_address"] == client_address(scope, trust) == "198.51.100.7"
    assert scope["scheme"] == "https"


@pytest.mark.parametrize(("trusted", "proto"), [([], "https"), (["10.0.0.0/8"], "javascript")])
def test_the_scheme_is_nobodys_to_choose(trusted: list[str], proto: str) -> None:
    scope = scope_of("10.0.0.5", proto=proto)
    ProxyTrust(trusted).note(scope)
    assert scope["scheme"] == "http"


def test_a_socket_without_an_address_has_none() -> None:
    assert ProxyTrust(["10.0.0.0/8"]).client_address(scope_of(None, "1.2.3.4")) is None
    assert rate_identity(None) == "unknown"


def test_what_is_no_network_is_refused_by_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="SECURITY__TRUSTED_PROXIES"):
        ProxyTrust(["proxy.internal"])


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("198.51.100.7", "address:198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "address:2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "address:198.51.100.7"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("not:an:address", "unknown"),
    ],
)
def test_one_customer_of_ipv6_is_one_identity(address: str, identity: str) -> None:
    assert rate_identity(address) == identity
