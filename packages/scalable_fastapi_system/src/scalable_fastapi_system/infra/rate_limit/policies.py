"""Policies: who may ask how often, in the syntax of the `limits` library ("100/minute", "10/second;1000/hour").

Every caller has a class (anonymous, user, api_key, admin) with a policy of the same name. A route may have another:
by its mark (`@rate_limit("auth")`) or by the settings (`RATE_LIMIT__ROUTES`). A policy of a route holds for callers
of every class; `auth` counts by address whoever is signed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scalable_fastapi_system.infra.settings import RateLimitSettings
from scalable_fastapi_system.kit.errors import ConfigurationError

ANONYMOUS, USER, API_KEY, ADMIN, AUTH = "anonymous", "user", "api_key", "admin", "auth"
_BUILT_IN = (ANONYMOUS, USER, API_KEY, ADMIN, AUTH)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` requests in `window_seconds`. `name` is what the RateLimit headers call it."""

    limit: int
    window_seconds: int
    name: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Rates that hold together.

    key: tells policies apart, also those of one name with other rates.
    header: the RateLimit-Policy field of answers under it, as a raw ASGI header.
    """

    name: str
    rates: tuple[Rate, ...]
    is_by_address: bool = False
    key: str = field(init=False, compare=False)
    header: tuple[bytes, bytes] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        counts = ",".join(f"{rate.limit}/{rate.window_seconds}" for rate in self.rates)
        object.__setattr__(self, "key", f"{self.name}:{counts}")
        items = ", ".join(f'"{rate.name}";q={rate.limit};w={rate.window_seconds}' for rate in self.rates)
        object.__setattr__(self, "header", (b"ratelimit-policy", items.encode()))

    @classmethod
    def parse(
        cls, name: str, text: str, *, is_by_address: bool = False, variable: str | None = None
    ) -> Policy:
        """The policy that the text describes. Raises ConfigurationError naming the variable, or the policy."""
        import limits

        try:
            items: list[Any] = limits.parse_many(text)
        except ValueError:
            items = []
        if not items or any(item.amount < 1 or item.get_expiry() < 1 for item in items):
            raise ConfigurationError(
                f"{variable or f'rate limit {name!r}'}: {text!r} is not a rate; write '100/minute' or '10/second;1000/hour'"
            )
        rates = tuple(
            Rate(item.amount, item.get_expiry(), name if len(items) == 1 else f"{name}-{item.get_expiry()}s")
            for item in items
        )
        return cls(name, rates, is_by_address)


class Policies:
    """All policies that the settings name. Raises ConfigurationError where one does not make sense."""

    def __init__(self, settings: RateLimitSettings) -> None:
        self._named: dict[str, Policy] = {
            name: Policy.parse(
                name,
                getattr(settings, name),
                is_by_address=name == AUTH,
                variable=f"RATE_LIMIT__{name.upper()}",
            )
            for name in _BUILT_IN
        }
        for name, text in settings.policies.items():
            if name in self._named:
                raise ConfigurationError(f"RATE_LIMIT__POLICIES: {name!r} has a variable of its own")
            self._named[name] = Policy.parse(name, text, variable="RATE_LIMIT__POLICIES")
        self._routes: dict[str, Policy] = {
            route: self._route_policy(route, text) for route, text in settings.routes.items()
        }
        self._marked: dict[str, Policy] = {}

    @property
    def limited_routes(self) -> frozenset[str]:
        """The routes that the settings name, by template, some with a method before it."""
        return frozenset(self._routes)

    def of_class(self, name: str) -> Policy:
        """The policy of a class of callers."""
        return self._named[name]

    def of_route(self, method: str, template: str, mark: str | None) -> Policy | None:
        """The route's own policy, None where it has none. The settings are stronger than the mark.

        Raises ConfigurationError where the mark names no policy.
        """
        if self._routes:
            found = self._routes.get(f"{method} {template}") or self._routes.get(template)
            if found is not None:
                return found
        return None if mark is None else self._marked.get(mark) or self._of_mark(mark)

    def _of_mark(self, mark: str) -> Policy:
        found = self._named.get(mark)
        if found is None:
            if not any(separator in mark for separator in ("/", " per ")):
                raise ConfigurationError(
                    f"a route is marked with the rate limit {mark!r}, which RATE_LIMIT__POLICIES does not have"
                )
            found = Policy.parse("route", mark)
        self._marked[mark] = found
        return found

    def _route_policy(self, route: str, text: str) -> Policy:
        return self._named.get(text) or Policy.parse("route", text, variable=f"RATE_LIMIT__ROUTES, {route}")


def class_of(*, kind: str | None, role: str | None) -> str:
    """The class of a caller: `kind` is `user`, `api_key` or None, `role` the role of who is signed in."""
    if kind is None:
        return ANONYMOUS
    if role == ADMIN:
        return ADMIN
    return API_KEY if kind == API_KEY else USER
