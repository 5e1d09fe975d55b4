"""Where a request comes from: the address that rate limits count by, the audit log keeps and log lines show.

X-Forwarded-For is believed from `SECURITY__TRUSTED_PROXIES` alone. Read from the right, every entry up to the first
address that is not a trusted proxy was written by one of ours; that one is the client, and whatever stands left of it
is the client's own invention. Without trusted proxies the header is not looked at.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from scalable_fastapi_system.kit.errors import ConfigurationError

CLIENT_ADDRESS = "client_address"
_REMEMBERED = 4096
_SCHEMES = frozenset({"http", "https"})


class ProxyTrust:
    """Whose forwarding headers are believed. Raises ConfigurationError for what is no address or network."""

    def __init__(self, trusted: Sequence[str]) -> None:
        try:
            networks = [ip_network(text, strict=False) for text in trusted]
        except ValueError as error:
            raise ConfigurationError(
                f"SECURITY__TRUSTED_PROXIES: {error}; write addresses or networks, such as 10.0.0.0/8"
            ) from None

        @lru_cache(_REMEMBERED)
        def is_trusted(text: str) -> bool:
            address = _parse(text)
            return address is not None and any(address in network for network in networks)

        self._is_trusted = is_trusted
        self._trusts_anybody = bool(networks)

    def client_address(self, scope: MutableMapping[str, Any]) -> str | None:
        """The client's address, None where the server does not know it (a Unix socket)."""
        client = scope.get("client")
        peer: str | None = client[0] if client else None
        if not self._trusts_anybody or peer is None or not self._is_trusted(peer):
            return peer
        chain = [
            entry
            for name, value in scope["headers"]
            if name == b"x-forwarded-for"
            for entry in value.decode("latin-1").split(",")
        ]
        found = peer
        for entry in reversed(chain):
            address = _parse(_without_port(entry.strip()))
            if address is None:
                break  # written by one of ours or by nobody we know: the last address that we could read
            found = str(address)
            if not self._is_trusted(found):
                break
        return found

    def note(self, scope: MutableMapping[str, Any]) -> None:
        """Leaves the address in `scope["state"]["client_address"]`, and the scheme that a trusted proxy tells of."""
        client = scope.get("client")
        if not self._trusts_anybody:
            scope["state"][CLIENT_ADDRESS] = client[0] if client else None
            return
        scope["state"][CLIENT_ADDRESS] = self.client_address(scope)
        if client and self._is_trusted(client[0]):
            for name, value in scope["headers"]:
                if name == b"x-forwarded-proto":
                    scheme = value.decode("latin-1").rpartition(",")[2].strip().lower()
                    if scheme in _SCHEMES:
                        scope["scheme"] = scheme


def client_address(scope: MutableMapping[str, Any], trusted: ProxyTrust) -> str | None:
    """The client's address: what was noted for this request, else found now."""
    state = scope.get("state") or {}
    if CLIENT_ADDRESS in state:
        found: str | None = state[CLIENT_ADDRESS]
        return found
    return trusted.client_address(scope)


def rate_identity(address: str | None) -> str:
    """What a rate limit counts a caller without a name by.

    An IPv4 address, or the /64 that one customer of IPv6 has to choose from.
    """
    if address is None:
        return "unknown"
    return f"address:{address}" if ":" not in address else _network_of(address)


@lru_cache(_REMEMBERED)
def _network_of(address: str) -> str:
    parsed = _parse(address)
    if parsed is None:
        return "unknown"
    if parsed.version == 4:
        return f"address:{parsed}"
    return f"address:{ip_network((int(parsed) >> 64 << 64, 64)).network_address}/64"


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def _without_port(entry: str) -> str:
    """`1.2.3.4:5678`, `[::1]:5678` and `[::1]` without what is not the address."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
