"""One policy, route and identity in one process: its lease, its own count and what it owes. No I/O, no clock of its own.

`now` is monotonic seconds of the process; `server_now` is the time of the Redis server, in seconds, which says where a
window begins. The limiter holds its lock around every call.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

from scalable_fastapi_system.infra.rate_limit.decision import Decision
from scalable_fastapi_system.infra.rate_limit.policies import Policy
from scalable_fastapi_system.infra.rate_limit.store import NOTHING_OWED, Ask, Grant, Owed, Return
from scalable_fastapi_system.infra.rate_limit.windows import LocalWindow, room, wait_seconds

# A lease is at most this part of the quota, and at most this many requests.
LEASE_DIVISOR = 20
MAX_LEASE = 1000
# A smaller lease saves too little, so quotas under LEASE_DIVISOR times this are asked for one by one.
MIN_LEASE = 4
# A lease that nobody uses for so long is given back; who asks again within it gets a larger one.
IDLE_SECONDS = 1.0
# A refusal is remembered for so long at the most: others may give quota back.
DENIAL_SECONDS = 1.0
_NEVER = float("-inf")

Counts = Sequence[tuple[int, int]]


class Bucket:
    """Counts for one caller. See the module."""

    __slots__ = (
        "_asked_at",
        "_charged",
        "_debts",
        "_indexes",
        "_keys",
        "_lease",
        "_rate",
        "_remaining",
        "_resets_at",
        "_retry_at",
        "_windows",
        "denied_until",
        "lease_until",
        "low_water",
        "policy",
        "tokens",
        "used_at",
    )

    def __init__(self, policy: Policy, keys: tuple[str, ...]) -> None:
        self.policy = policy
        self._keys = keys
        self._windows = tuple(LocalWindow() for _ in policy.rates)  # what this process has admitted
        self._indexes: tuple[int, ...] = ()  # the server's numbers of the windows that the lease is from
        self._lease = 0  # what was last asked for beyond what was waited for
        self._charged = 0  # admitted under the lease, not yet in `_windows`
        self._debts: tuple[_Debt, ...] = ()  # one for each rate, once anything is owed
        self.tokens = 0  # leased and not used
        self.low_water = 0
        self._rate = self._remaining = 0
        self.lease_until = self.denied_until = self.used_at = _NEVER
        self._asked_at = self._resets_at = self._retry_at = _NEVER

    # -- without asking -----------------------------------------------------------------------------------

    def admit(self, now: float) -> Decision:
        """Admits one under the lease, from which the caller has taken a token."""
        self.used_at = now
        self._charged += 1
        reset = math.ceil(self._resets_at - now)
        return Decision(self.policy, self._rate, self._remaining + self.tokens, reset if reset > 0 else 1)

    def deny(self, now: float) -> Decision:
        """Refuses one, for the reason last seen."""
        return Decision(
            self.policy,
            self._rate,
            0,
            max(1, math.ceil(self._resets_at - now)),
            # Beyond the moment, not at it: at it the window before still weighs whole.
            max(1, math.floor(self._retry_at - now) + 1),
        )

    def decide_alone(self, now: float, server_now: float, *, is_owed: bool) -> Decision:
        """Decides by this process's own count. is_owed: whether Redis has to be told of it later."""
        if self.own_room(now, server_now) < 1:
            return self.deny_by_own_count(now, server_now)
        for window in self._windows:
            window.count += 1
        if is_owed:
            self._owe(now, server_now)
        self._report(now, server_now, self._own_counts())
        return Decision(self.policy, self._rate, self._remaining, max(1, math.ceil(self._resets_at - now)))

    def deny_by_own_count(self, now: float, server_now: float) -> Decision:
        """Refuses one because this process alone has admitted the quota."""
        self._refuse(now, server_now, self._own_counts())
        return self.deny(now)

    def own_room(self, now: float, server_now: float) -> int:
        """How many more this process may admit by its own count."""
        self._fold(now)
        left = []
        for rate, window in zip(self.policy.rates, self._windows, strict=True):
            window.roll(int(server_now // rate.window_seconds))
            left.append(room(rate, window.count, window.before, server_now % rate.window_seconds))
        return min(left)

    # -- asking -------------------------------------------------------------------------------------------

    def ask(self, waiting: int, now: float, server_now: float) -> Ask:
        """What to ask for, when so many wait."""
        own_room = self.own_room(now, server_now)
        most = min(min(rate.limit for rate in self.policy.rates) // LEASE_DIVISOR, MAX_LEASE)
        if most < MIN_LEASE:
            extra = 0
        elif now - self._asked_at < IDLE_SECONDS:
            extra = min(most, max(MIN_LEASE, 2 * self._lease))
        else:
            extra = self._lease // 2
        if now < self._resets_at:
            extra = min(extra, self._remaining // 8)  # near the end leases get small: all of it can be used
        self._lease, self._asked_at = extra, now
        want = max(0, min(waiting + extra, own_room - self.tokens))
        return Ask(self._keys, self.policy.rates, want, self._owed(now))

    def take(self, ask: Ask, grant: Grant, *, sent: float, now: float, server_now: float) -> None:
        """Takes over what was given. sent: when it was asked for; `server_now` is of the answer."""
        self._fold(now)
        indexes = tuple(int(server_now // rate.window_seconds) for rate in ask.rates)
        if indexes != self._indexes:
            self.tokens = 0  # they were from a window that is over
            self._indexes = indexes
        # The answer is younger than the question: so the lease never outlives the window that it is from.
        self.lease_until = sent + min(
            rate.window_seconds - server_now % rate.window_seconds for rate in ask.rates
        )
        self.tokens += grant.given
        self._settle(ask.owed, now)
        self.low_water = self._lease // 4
        self._report(now, server_now, grant.counts)
        if self.tokens > 0:
            self.denied_until = _NEVER
            self.used_at = now

    def serve(self, grant: Grant, *, now: float, server_now: float) -> Decision:
        """The decision for one who waited for the grant that was just taken."""
        if self.tokens > 0:
            self.tokens -= 1
            return self.admit(now)
        self._refuse(now, server_now, grant.counts)
        return self.deny(now)

    def give_back(self, now: float) -> list[Return]:
        """Ends the lease. What was not used of it, to be given back."""
        tokens, self.tokens = self.tokens, 0
        if tokens == 0 or now >= self.lease_until:
            return []
        return [Return(key, index, tokens) for key, index in zip(self._keys, self._indexes, strict=True)]

    # -- small things -------------------------------------------------------------------------------------

    def _fold(self, now: float) -> None:
        """Moves what was admitted under the lease into the own count; forgets a lease that has lapsed."""
        if self._charged:
            for window, index in zip(self._windows, self._indexes, strict=True):
                window.add(index, self._charged)
            self._charged = 0
        if now >= self.lease_until:
            self.tokens = 0

    def _owe(self, now: float, server_now: float) -> None:
        if not self._debts:
            self._debts = tuple(_Debt(rate.window_seconds) for rate in self.policy.rates)
        for debt in self._debts:
            debt.add(now, server_now)

    def _owed(self, now: float) -> tuple[Owed, ...]:
        """What to ask to be charged. Nothing is taken away by it: the question may fail."""
        if not self._debts:
            return (NOTHING_OWED,) * len(self.policy.rates)
        return tuple(debt.owed(now) for debt in self._debts)

    def _settle(self, charged: Sequence[Owed], now: float) -> None:
        """Notes what was charged, and pays with new tokens for those whom this answer came too late for."""
        if not self._debts:
            return
        for debt, owed in zip(self._debts, charged, strict=True):
            debt.note(owed)
        paid = min(self.tokens, max(debt.left(now) for debt in self._debts))
        self.tokens -= paid
        for debt in self._debts:
            debt.pay(paid, now)

    def _own_counts(self) -> Counts:
        return [(window.count, window.before) for window in self._windows]

    def _report(self, now: float, server_now: float, counts: Counts) -> None:
        """Notes what callers are told: the rate with the least left, how much that is, until when."""
        least, self._rate = min(
            (room(rate, count, before, server_now % rate.window_seconds), place)
            for place, (rate, (count, before)) in enumerate(zip(self.policy.rates, counts, strict=True))
        )
        window = self.policy.rates[self._rate].window_seconds
        self._remaining = max(0, least)
        self._resets_at = now + window - server_now % window

    def _refuse(self, now: float, server_now: float, counts: Counts) -> None:
        self._report(now, server_now, counts)
        wait = max(
            wait_seconds(rate, count, before, server_now % rate.window_seconds)
            for rate, (count, before) in zip(self.policy.rates, counts, strict=True)
        )
        self._retry_at = now + wait
        self.denied_until = now + min(wait, DENIAL_SECONDS)


class _Debt:
    """What was admitted without asking under one rate, until its window ends.

    A sum that only grows, so that Redis can tell what of it is charged already (see `store`), and that no failure of a
    question can lose.
    """

    __slots__ = ("_account", "_charged", "_sum", "_until", "_window_seconds")

    def __init__(self, window_seconds: int) -> None:
        self._window_seconds = window_seconds
        self._account = ""
        self._sum = 0
        self._charged = 0  # of it, as far as Redis has told
        self._until = _NEVER

    def add(self, now: float, server_now: float) -> None:
        """Owes one more. With the window the debt lapses, and another account begins."""
        if now >= self._until:
            self._account = secrets.token_hex(8)
            self._sum = self._charged = 0
            self._until = now + self._window_seconds - server_now % self._window_seconds
        self._sum += 1

    def left(self, now: float) -> int:
        """How many are neither charged nor paid, as far as this process knows."""
        return max(0, self._sum - self._charged) if now < self._until else 0

    def owed(self, now: float) -> Owed:
        """What Redis is to be told: the sum, or nothing where it knows it."""
        return Owed(self._account, self._sum) if self.left(now) else NOTHING_OWED

    def note(self, charged: Owed) -> None:
        """Redis has charged this. Of an account that has ended meanwhile it says nothing."""
        if charged.account == self._account:
            self._charged = max(self._charged, charged.amount)

    def pay(self, tokens: int, now: float) -> None:
        """So many were leased, which is to say charged, for those that are left."""
        self._sum -= min(tokens, self.left(now))
