"""Which Host headers are served."""

from __future__ import annotations


class HostRule:
    """Exact names, or `*.example.com` for what ends in it."""

    def __init__(self, allowed: list[str]) -> None:
        self._exact = {name.lower().encode() for name in allowed if not name.startswith("*")}
        self._endings = tuple(name[1:].lower().encode() for name in allowed if name.startswith("*."))

    def allows(self, host: bytes) -> bool:
        name = host.lower()
        if not name.endswith(b"]"):  # an IPv6 address without a port ends in its bracket
            name = name.rpartition(b":")[0] or name
        return name in self._exact or (bool(self._endings) and name.endswith(self._endings))
