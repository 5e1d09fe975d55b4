"""The counts in Redis, and the one script that asks for many quotas at once.

A count is a sliding window of two: the requests of this window, and those of the one before by the share of it that
still lies within the last window's length. Windows are aligned to the server's clock, so every process means the same
one. In one aligned window never more than the limit is given out.

The `limits` library parses the rates but does not do this: its scripts answer yes or no for one key and one amount.
Here one call serves all callers who wait at that moment, gives as many as there are up to what was asked, says what is
left, charges what was admitted while Redis was away, and takes back what was leased and not used.

A question that failed may have been carried out all the same (a slow or frozen server may do so, too late). What
is owed is therefore asked for as a sum that only grows, beside which the script notes what of it is charged: however
often a process asks, each request is charged once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalable_fastapi_system.infra.rate_limit.policies import Rate
from scalable_fastapi_system.infra.redis import RedisConnections, Script

# ARGV: number of asks; for each: want, number of rates, and for each rate its limit, its window in ms, what is owed and
# to which account; then for each return: window number and amount. KEYS: one for each rate of each ask, then one for
# each return. Answers: now in ms; for each ask what it was given and, for each rate, the counts of this window and the
# one before.
_TAKE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at, key = 2, 1

local function load(name, window)
  local found = redis.call('HMGET', name, 'i', 'c', 'p')
  local index, count, before = tonumber(found[1]), tonumber(found[2]) or 0, tonumber(found[3]) or 0
  local current = math.floor(now / window)
  if not index or index < current - 1 then return current, 0, 0 end
  if index == current - 1 then return current, 0, count end
  return index, count, before
end

local function charge(name, window, owed, account)
  if owed == 0 then return 0 end
  local note = name .. ':owed:' .. account
  local charged = tonumber(redis.call('GET', note)) or 0
  redis.call('SET', note, math.max(owed, charged), 'PX', window)
  return math.max(owed - charged, 0)
end

local out = {now}
for _ = 1, tonumber(ARGV[1]) do
  local want, rates = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  local rows, given = {}, want
  for r = 1, rates do
    local limit, window = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local debt = charge(KEYS[key], window, tonumber(ARGV[at + 2]), ARGV[at + 3])
    at = at + 4
    local index, count, before = load(KEYS[key], window)
    count = count + debt
    local past = math.min(math.max(now - index * window, 0), window)
    given = math.min(given, limit - count - math.floor(before * (window - past) / window))
    rows[r] = {KEYS[key], index, count, before, window, debt}
    key = key + 1
  end
  given = math.max(given, 0)
  out[#out + 1] = given
  for r = 1, rates do
    local name, index, count, before, window, debt = unpack(rows[r])
    count = count + given
    if given > 0 or debt > 0 then
      redis.call('HSET', name, 'i', index, 'c', count, 'p', before)
      redis.call('PEXPIRE', name, window * 2)
    end
    out[#out + 1] = count
    out[#out + 1] = before
  end
end
while key <= #KEYS do
  local index, amount = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local found = redis.call('HMGET', KEYS[key], 'i', 'c', 'p')
  local field, count = nil, 0
  if tonumber(found[1]) == index then field, count = 'c', tonumber(found[2])
  elseif tonumber(found[1]) == index + 1 then field, count = 'p', tonumber(found[3]) end
  if field then redis.call('HSET', KEYS[key], field, math.max(0, count - amount)) end
  at = at + 2
  key = key + 1
end
return out
""")


@dataclass(frozen=True, slots=True)
class Owed:
    """`amount` requests in all that were admitted without asking under one rate, by one account of one process."""

    account: str
    amount: int


NOTHING_OWED = Owed("", 0)


@dataclass(frozen=True, slots=True)
class Ask:
    """`want` more requests for one identity. `owed`, one for each rate, is charged whatever is left."""

    keys: tuple[str, ...]
    rates: tuple[Rate, ...]
    want: int
    owed: tuple[Owed, ...]


@dataclass(frozen=True, slots=True)
class Return:
    """`amount` requests that were given out in window number `index` and will not be made."""

    key: str
    index: int
    amount: int


@dataclass(frozen=True, slots=True)
class Grant:
    """`given` of what was wanted, and each rate's counts of this window and the one before."""

    given: int
    counts: tuple[tuple[int, int], ...]


class SharedCounts:
    """The counts that all processes share."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    def keys(self, name: str, rates: Sequence[Rate]) -> tuple[str, ...]:
        """Where the counts of these rates are for one policy, route and identity."""
        return tuple(self._redis.key("limit", str(rate.window_seconds), name) for rate in rates)

    async def take(self, asks: Sequence[Ask], returns: Sequence[Return]) -> tuple[float, list[Grant]]:
        """The server's time in seconds and a grant for each ask, in one round trip. Raises RedisAwayError."""
        keys: list[str] = []
        arguments: list[Any] = [len(asks)]
        for ask in asks:
            keys += ask.keys
            arguments += (ask.want, len(ask.rates))
            for rate, owed in zip(ask.rates, ask.owed, strict=True):
                arguments += (rate.limit, rate.window_seconds * 1000, owed.amount, owed.account)
        for back in returns:
            keys.append(back.key)
            arguments += (back.index, back.amount)
        answer = await self._redis.run(_TAKE, keys, arguments)
        grants: list[Grant] = []
        at = 1
        for ask in asks:
            end = at + 1 + 2 * len(ask.rates)
            counts = tuple((answer[place], answer[place + 1]) for place in range(at + 1, end, 2))
            grants.append(Grant(answer[at], counts))
            at = end
        return answer[0] / 1000, grants
