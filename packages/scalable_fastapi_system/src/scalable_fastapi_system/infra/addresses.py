"""Which network addresses a call to the outside may reach (the guard against server-side request forgery)."""

from __future__ import annotations

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# In these the last four bytes are an IPv4 address: what counts is the address inside.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What Python does not say, or says since some patch release only: one version of this service gives one answer.
_LOCAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # what Azure serves its machines with, in every virtual network of theirs
        "192.0.0.0/24",  # IETF protocol assignments: a network's own devices, and a cloud's metadata (192.0.0.192)
        "2001::/23",  # the same for IPv6: the nearest of something, tunnels (Teredo), identifiers that are no addresses
        "2002::/16",  # 6to4, given up (RFC 7526): IPv4 addresses wrapped, anyone's
        "3fff::/20",  # examples in documents (RFC 9637)
        "64:ff9b:1::/48",  # NAT64 of one network (RFC 8215); the wrapped address may stand anywhere in it
        "fec0::/10",  # site-local (RFC 3879)
    )
)


def is_public(text: str) -> bool:
    """Whether the address is one of the public internet, however it is wrapped. False for what is no address."""
    try:
        address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return False
    if any(address in network for network in _LOCAL):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )


def _unwrapped(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
