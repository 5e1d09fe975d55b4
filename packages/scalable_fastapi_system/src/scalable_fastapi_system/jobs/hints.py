"""Hints: which jobs may be ready, carried by Redis to the workers that wait for them.

A hint is a claim check's shadow: losing one, having it twice or having it late changes nothing but when a job starts,
because the row's claim in the database is the gate. So a failed push is counted and forgotten, and the reconciler
pushes again.

One queue has four keys. `ready` is a sorted set whose scores let owners take turns: each push of an owner is placed
one behind that owner's last, but never before the present turn, so an owner's first job stands behind at most one job of
each other owner. `delayed` holds what is not due, by time. `lanes` and `clock` remember the turns while there are any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from scalable_fastapi_system.infra.redis import RedisAwayError, RedisConnections, Script, evaluate
from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.records import Hint

# Later ones are not pushed before their time: the reconciler promotes them when they are due.
MAX_DELAY_SECONDS = 60.0
_MAX_PUSH = 500
_MAX_PROMOTED = 200

_ENQUEUE = """
local BAND = 1099511627776
local function enqueue(ready, lanes, clock, member, lane, priority)
  local now = tonumber(redis.call('HGET', clock, priority) or '0')
  local field = priority .. ':' .. lane
  local turn = math.max(now, tonumber(redis.call('HGET', lanes, field) or '0')) + 1
  if redis.call('ZADD', ready, 'NX', (tonumber(priority) + 100) * BAND + turn, member) == 1 then
    redis.call('HSET', lanes, field, turn)
    return 1
  end
  return 0
end
local t = redis.call('TIME')
local now_ms = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
"""

# KEYS: ready, delayed, lanes, clock. ARGV: member, lane, priority, delay in ms, and so on.
# A delayed hint that is the next to come due wakes one idle worker (by the member '~'), which then waits for it.
PUSH = Script(
    _ENQUEUE
    + """
local added = 0
for i = 1, #ARGV, 4 do
  local delay = tonumber(ARGV[i + 3])
  if delay > 0 then
    local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
    local due = now_ms + delay
    added = added + redis.call('ZADD', KEYS[2], 'NX', due, ARGV[i] .. '|' .. ARGV[i + 1] .. '|' .. ARGV[i + 2])
    if not first or due < tonumber(first) then redis.call('ZADD', KEYS[1], 0, '~') end
  else
    added = added + enqueue(KEYS[1], KEYS[3], KEYS[4], ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
end
return added
"""
)

# KEYS: the four of each queue. ARGV: how many. Answers with the ms until the next delayed hint (-1: none), then hints.
POP = Script(
    _ENQUEUE
    + f"""
local want = tonumber(ARGV[1])
local out = {{-1}}
for k = 1, #KEYS, 4 do
  local ready, delayed, lanes, clock = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now_ms, 'LIMIT', 0, {_MAX_PROMOTED})
  for _, entry in ipairs(due) do
    local member, lane, priority = string.match(entry, '^(.-)|(.-)|(.-)$')
    enqueue(ready, lanes, clock, member, lane, priority)
  end
  if #due > 0 then redis.call('ZREM', delayed, unpack(due)) end
  if want > 0 then
    local got = redis.call('ZPOPMIN', ready, want)
    local turns = {{}}
    for i = 1, #got, 2 do
      if got[i] ~= '~' then
        out[#out + 1] = got[i]
        want = want - 1
        local score = tonumber(got[i + 1])
        local band = math.floor(score / BAND)
        turns[tostring(band - 100)] = score - band * BAND
      end
    end
    if redis.call('EXISTS', ready) == 0 then
      redis.call('DEL', lanes, clock)
    else
      for priority, turn in pairs(turns) do redis.call('HSET', clock, priority, turn) end
    end
  end
  local nearest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  if nearest then
    local wait = math.max(0, tonumber(nearest) - now_ms)
    if out[1] < 0 or wait < out[1] then out[1] = wait end
  end
end
return out
"""
)


class Keys:
    """The names of the hints' keys. One hash tag keeps them on one node of a cluster."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}:{{jobs}}"
        self.canary = f"{self._prefix}:canary"

    def ready(self, queue: str) -> str:
        return f"{self._prefix}:ready:{queue}"

    def of(self, queue: str) -> list[str]:
        """The four keys of a queue, in the order of the scripts."""
        return [f"{self._prefix}:{part}:{queue}" for part in ("ready", "delayed", "lanes", "clock")]

    def events(self, job_id: UUID) -> str:
        return f"{self._prefix}:events:{job_id.hex}"


class HintSender:
    """Pushes hints from any loop."""

    def __init__(self, connections: RedisConnections) -> None:
        self.connections = connections
        self.keys = Keys(connections.settings.key_prefix)

    async def push(self, hints: Sequence[Hint]) -> bool:
        """Pushes hints, one script a queue, all in one round trip. False where Redis is away or refuses; nothing is raised."""
        if not hints:
            return True
        try:
            await self.connections.call(lambda client: push(client, self.keys, hints))
        except RedisAwayError:
            metrics.hints_lost.inc(len(hints))
            return False
        return True


async def push(client: Any, keys: Keys, hints: Iterable[Hint]) -> int:
    """Pushes hints; how many were not there yet. Raises what the client raises."""
    by_queue: dict[str, list[Any]] = {}
    for hint in hints:
        if hint.delay_seconds <= MAX_DELAY_SECONDS:
            # rounded up: a hint that comes before its job is due is in vain
            delay_ms = int(hint.delay_seconds * 1000) + 1 if hint.delay_seconds > 0 else 0
            by_queue.setdefault(hint.queue, []).extend((hint.member, hint.lane, hint.priority, delay_ms))
    calls = [
        (keys.of(queue), arguments[start : start + 4 * _MAX_PUSH])
        for queue, arguments in by_queue.items()
        for start in range(0, len(arguments), 4 * _MAX_PUSH)
    ]
    if len(calls) == 1:
        return int(await evaluate(client, PUSH, *calls[0]))
    if not calls:
        return 0
    async with client.pipeline(transaction=False) as pipe:
        for names, arguments in calls:
            pipe.eval(PUSH.text, len(names), *names, *arguments)
        return sum(int(added) for added in await pipe.execute())


async def pop(client: Any, keys: Keys, queues: Sequence[str], limit: int) -> tuple[list[str], float | None]:
    """Up to `limit` hints of the queues, and the seconds until the next delayed one is due."""
    names = [name for queue in queues for name in keys.of(queue)]
    answer = await evaluate(client, POP, names, [limit])
    wait_ms = int(answer[0])
    return [member.decode() for member in answer[1:]], wait_ms / 1000 if wait_ms >= 0 else None


def parse_member(member: str) -> UUID | None:
    """The job that a hint is about; None for what is no hint (somebody else's key, an old format)."""
    try:
        return UUID(member.partition(".")[0])
    except ValueError:
        return None
