"""Which network addresses a call to the outside may reach (the guard against server-side request forgery)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# In these the last four bytes are an IPv4 address: what counts is the address inside.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Of one network alone, which Python does not say: NAT64's own range for that (RFC 8215), whose wrapped address may stand
# anywhere in it, and site-local addresses (RFC 3879).
_LOCAL = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv6Network("fec0::/10"))


def is_public(text: str) -> bool:
    """Whether the address is one of the public internet, however it is wrapped. False for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if any(address in network for network in _LOCAL):
        return False
    return all(
        inner.is_global and not inner.is_multicast and not inner.is_reserved and not inner.is_unspecified
        for inner in _unwrapped(address)
    )


def _unwrapped(address: _Address) -> Iterator[_Address]:
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    if address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
