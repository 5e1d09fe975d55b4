"""Slows down guessing without letting anyone lock a user out.

Four budgets of failed attempts, each refilling steadily: of one name from one address, of one address, of one name from
everywhere, and of everyone. The last two are what a guesser with many addresses meets; they do not hold for an address
that the user has signed in from before, nor for a browser that carries the cookie of an earlier sign-in, so that the
user still gets in while the guesser does not. What is refused depends on what was sent alone, never on whether there is
such a user. Successful attempts cost nothing. Without Redis each process counts by itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from scalable_fastapi_system.identity.keys import derive
from scalable_fastapi_system.infra.redis import RedisAwayError, RedisConnections, Script
from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock
from scalable_fastapi_system.kit.errors import RateLimitExceededException

# An office behind one address has several people who mistype.
_ADDRESS_FACTOR = 6
_NAME_FACTOR = 6
# Above this the hashing threads are the limit anyway.
_EVERYONE_FACTOR = 100
_MINUTE_SECONDS = 60.0
_MAX_LOCAL_KEYS = 100_000
_MAX_DEVICE_PARTS = 3
# A browser or an address from which someone has signed in within this time is theirs.
KNOWN_FOR = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Budget:
    """`burst` attempts at once, one more every `interval_seconds`."""

    key: str
    interval_seconds: float
    burst: int


class AttemptStore(Protocol):
    """Counts attempts against budgets."""

    async def spend(self, budgets: Sequence[Budget]) -> float:
        """Takes one from each and gives 0.0, or takes nothing and gives the seconds to wait."""

    async def give_back(self, budgets: Sequence[Budget]) -> None:
        """Returns one to each."""


class LocalAttempts:
    """Budgets in the memory of this process. A budget is kept as the time at which it will be full again."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._full_at: dict[str, float] = {}
        self._lock = threading.Lock()

    async def spend(self, budgets: Sequence[Budget]) -> float:
        now = self._monotonic()
        with self._lock:
            after = {
                budget.key: max(now, self._full_at.get(budget.key, now)) + budget.interval_seconds
                for budget in budgets
            }
            wait = max(after[budget.key] - budget.burst * budget.interval_seconds - now for budget in budgets)
            # A millionth: sums of fractions are not exact.
            if wait > 1e-6:
                return wait
            if len(self._full_at) + len(after) > _MAX_LOCAL_KEYS:
                self._forget(now)
            self._full_at.update(after)
        return 0.0

    async def give_back(self, budgets: Sequence[Budget]) -> None:
        with self._lock:
            for budget in budgets:
                if budget.key in self._full_at:
                    self._full_at[budget.key] -= budget.interval_seconds

    def _forget(self, now: float) -> None:
        self._full_at = {key: moment for key, moment in self._full_at.items() if moment > now}
        while len(self._full_at) > _MAX_LOCAL_KEYS // 2:  # all in use: the oldest go
            del self._full_at[next(iter(self._full_at))]


_SPEND = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait, after = 0, {}
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  after[i] = math.max(now, tonumber(redis.call('GET', key) or now)) + interval
  wait = math.max(wait, after[i] - burst * interval - now)
end
if wait > 0 then return math.ceil(wait) end
for i, key in ipairs(KEYS) do redis.call('SET', key, after[i], 'PX', math.ceil(after[i] - now)) end
return 0
""")
_GIVE_BACK = Script("""
for i, key in ipairs(KEYS) do
  local full_at, left = redis.call('GET', key), redis.call('PTTL', key)
  local interval = tonumber(ARGV[i])
  if full_at and left > interval then
    redis.call('SET', key, full_at - interval, 'PX', math.ceil(left - interval))
  elseif full_at then
    redis.call('DEL', key)
  end
end
return 0
""")
# A sign-in costs a quarter of a second; asking how many there were must not cost as much again.
_CALL_SECONDS = 0.2


class SharedAttempts:
    """Budgets in Redis, for all processes; in the memory of this one while Redis is away."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis
        self._local = LocalAttempts()

    async def spend(self, budgets: Sequence[Budget]) -> float:
        numbers = [number for budget in budgets for number in (budget.interval_seconds * 1000, budget.burst)]
        try:
            wait = await self._redis.run(_SPEND, self._keys(budgets), numbers, timeout_seconds=_CALL_SECONDS)
        except RedisAwayError:
            return await self._local.spend(budgets)
        return float(wait) / 1000

    async def give_back(self, budgets: Sequence[Budget]) -> None:
        intervals = [budget.interval_seconds * 1000 for budget in budgets]
        try:
            await self._redis.run(_GIVE_BACK, self._keys(budgets), intervals, timeout_seconds=_CALL_SECONDS)
        except RedisAwayError:
            await self._local.give_back(budgets)

    def _keys(self, budgets: Sequence[Budget]) -> list[str]:
        return [self._redis.key("attempts", budget.key) for budget in budgets]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was let through, and what it has taken."""

    budgets: tuple[Budget, ...]
    # Of the user whose cookie let it through. Whether the name is still theirs is not known here.
    owner_id: int | None = None


class SignInThrottle:
    """Lets attempts through or refuses them."""

    def __init__(
        self, security: SecuritySettings, store: AttemptStore, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._per_minute = security.login_attempts_per_minute
        self._store = store
        self._clock = clock
        self._key = derive(security.secret_key, "sign-in-throttle")
        self._device_keys = [
            derive(secret, "known-device-of-user")
            for secret in (security.secret_key, *security.previous_secret_keys)
        ]

    async def admit(
        self,
        identifier: str,
        address: str | None,
        *,
        device: str | None = None,
        is_known_address: Callable[[], Awaitable[bool]],
    ) -> Attempt:
        """Lets an attempt through. Raises RateLimitExceededException with the seconds to wait.

        device: the cookie of an earlier sign-in, if any. is_known_address: asked only where the budgets that many
        addresses share are used up.
        """
        name = identifier.lower()
        owner_id = None if device is None else self._owner_of(device, name)
        if device is not None and owner_id is not None:
            budgets = (
                # By the part that is signed: whatever is hung on behind it would make a new budget each time.
                self._budget("device", device.partition(".")[0], factor=1),
                self._budget("devices", str(owner_id), factor=_NAME_FACTOR),
            )
            if await self._store.spend(budgets) == 0.0:
                return Attempt(budgets, owner_id)
        place = network_of(address)
        near = (
            self._budget("pair", f"{name} {place}", factor=1),
            self._budget("address", place, factor=_ADDRESS_FACTOR),
        )
        wait = await self._store.spend(near)
        if wait > 0.0:
            raise _too_many(wait)
        far = (
            self._budget("name", name, factor=_NAME_FACTOR),
            self._budget("everyone", "", factor=_EVERYONE_FACTOR),
        )
        wait = await self._store.spend(far)
        if wait == 0.0:
            return Attempt(near + far)
        if await is_known_address():
            return Attempt(near)
        raise _too_many(wait)

    async def admit_message(self, address: str) -> bool:
        """Whether one more message may be sent to this address: three at once, then one every ten minutes."""
        budget = Budget(self._digest("message", address.lower()), 10 * _MINUTE_SECONDS, 3)
        return await self._store.spend((budget,)) == 0.0

    async def give_back(self, attempt: Attempt) -> None:
        """Returns what the attempt has taken: it succeeded, or nothing was tried."""
        await self._store.give_back(attempt.budgets)

    def device_cookie(self, user_id: int, *identifiers: str) -> str:
        """A cookie that says that this user has signed in here by this name or address. It signs nobody in."""
        head = f"{user_id}-{int(self._clock.now().timestamp())}-{secrets.token_urlsafe(12)}"
        names = (identifier.lower() for identifier in identifiers)
        return ".".join((head, *(_device_mac(self._device_keys[0], head, name) for name in names)))

    def _owner_of(self, cookie: str, name: str) -> int | None:
        """The user to whom we gave the cookie while this name was theirs; None where we did not, or long ago."""
        if not cookie.isascii():
            return None
        head, *given = cookie.split(".")[:_MAX_DEVICE_PARTS]
        expected = [_device_mac(key, head, name) for key in self._device_keys]
        if not any(hmac.compare_digest(mine, theirs) for mine in expected for theirs in given):
            return None
        user_id, given_at, _ = head.split("-", 2)
        age_seconds = self._clock.now().timestamp() - int(given_at)
        return int(user_id) if age_seconds < KNOWN_FOR.total_seconds() else None

    def _budget(self, kind: str, text: str, *, factor: int) -> Budget:
        burst = self._per_minute * factor
        return Budget(self._digest(kind, text), _MINUTE_SECONDS / burst, burst)

    def _digest(self, kind: str, text: str) -> str:
        # Names and addresses of people do not belong into another store in the clear.
        digest = hashlib.blake2b(text.encode(), key=self._key, digest_size=16, person=kind[:16].encode())
        return f"{kind}:{digest.hexdigest()}"


def _device_mac(key: bytes, head: str, name: str) -> str:
    digest = hmac.digest(key, f"{head} {name}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest[:24]).decode()


def network_of(address: str | None) -> str:
    """What stands for a client: an IPv4 address, or the /64 that one IPv6 customer has to choose from."""
    if address is None:
        return "nowhere"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _too_many(wait_seconds: float) -> RateLimitExceededException:
    seconds = max(1, math.ceil(wait_seconds))
    return RateLimitExceededException(
        f"Too many attempts; try again in {seconds} s", headers={"Retry-After": str(seconds)}
    )
