"""The level in Redis: entries, the tags that void them, and the locks of those who load.

An entry is one string: a header line, then the payload. The header says until when the value is fresh, in the
server's milliseconds, and which version of each tag it was made under. A tag's version is a key of its own;
invalidating a tag deletes that key, which voids every entry made under it, at the cost of one deletion and however
many there are. An entry whose tag has no version is void too, so that a Redis that evicts can lose entries, never
revive them. Every entry is under one tag more, "everything", which `clear` deletes.

A lock holds the token of the caller who loads. Whatever changes the entry deletes the lock, so a value that was
loaded before a change is not stored after it. A walk over a prefix deletes all locks before the first entry, for the
same reason.

Everything here raises RedisAwayError and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import orjson

from scalable_fastapi_system.infra.redis import RedisConnections, Script

EVERYTHING = ""
_SCAN_COUNT = 1000
# Redis counts lives in milliseconds, and refuses one of none.
SHORTEST_SECONDS = 0.001

_COMMON = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function read(key, prefix)
  local raw = redis.call('GET', key)
  if not raw then return false end
  local stop = string.find(raw, '\\n', 1, true)
  local fresh, tags = string.match(string.sub(raw, 1, stop - 1), '^(%d+);(.*)$')
  for tag, version in string.gmatch(tags, '([^,=]*)=(%d+)') do
    if redis.call('GET', prefix .. tag) ~= version then
      redis.call('UNLINK', key)
      return false
    end
  end
  return {fresh - now, redis.call('PTTL', key), tags, string.sub(raw, stop + 1)}
end
-- The version of a tag, made where there is none, kept for at least as long as the entries that name it.
local function version_of(tag, prefix, life)
  local key = prefix .. tag
  local version = redis.call('GET', key)
  if not version then
    version = time[1] .. string.format('%06d', time[2])
    redis.call('SET', key, version, 'PX', life)
  elseif redis.call('PTTL', key) < tonumber(life) then
    redis.call('PEXPIRE', key, life)
  end
  return version
end
"""

# KEYS: entries. ARGV: prefix of tags.
_READ = Script(
    _COMMON
    + """
local out = {}
for i, key in ipairs(KEYS) do out[i] = read(key, ARGV[1]) end
return out
"""
)

# KEYS: entry, lock. ARGV: prefix of tags, token, the lock's ms, ms that tags live, tags.
# Answers 0 and the entry (fresh), 1, what is stale and versions of the tags (the lock is ours), or 2 and what is stale.
_READ_OR_LOCK = Script(
    _COMMON
    + """
local found = read(KEYS[1], ARGV[1])
if found and found[1] > 0 then return {0, found} end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {2, found} end
local versions = {}
for i = 5, #ARGV do versions[i - 4] = version_of(ARGV[i], ARGV[1], ARGV[4]) end
return {1, found, versions}
"""
)

# KEYS: entry, lock. ARGV: prefix of tags, token, payload, ms fresh, ms kept, then for each tag its name and the version
# that it must still have.
_STORE = Script(
    _COMMON
    + """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('UNLINK', KEYS[2])
local kept, header = tonumber(ARGV[5]), {}
for i = 6, #ARGV, 2 do
  if version_of(ARGV[i], ARGV[1], kept + 60000) ~= ARGV[i + 1] then return 0 end
  header[#header + 1] = ARGV[i] .. '=' .. ARGV[i + 1]
end
local line = string.format('%.0f', now + tonumber(ARGV[4])) .. ';' .. table.concat(header, ',') .. '\\n'
redis.call('SET', KEYS[1], line .. ARGV[3], 'PX', kept)
return 1
"""
)

# KEYS: entries, then their locks. ARGV: prefix of tags, ms kept, channel, message, number of tags, tags, payloads.
_STORE_ALL = Script(
    _COMMON
    + """
local kept, last = tonumber(ARGV[2]), 5 + tonumber(ARGV[5])
local header = {}
for i = 6, last do header[#header + 1] = ARGV[i] .. '=' .. version_of(ARGV[i], ARGV[1], kept + 60000) end
local line = string.format('%.0f', now + kept) .. ';' .. table.concat(header, ',') .. '\\n'
local count = #KEYS / 2
for i = 1, count do
  redis.call('SET', KEYS[i], line .. ARGV[last + i], 'PX', kept)
  redis.call('UNLINK', KEYS[count + i])
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return count
"""
)

# KEYS: what to delete. ARGV: channel, message, how many of the keys are entries.
_DROP = Script("""
local gone = 0
for i, key in ipairs(KEYS) do
  local was = redis.call('UNLINK', key)
  if i <= tonumber(ARGV[3]) then gone = gone + was end
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return gone
""")

# KEYS: lock. ARGV: token, ms to keep the lock for.
_HOLD = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""")

# KEYS: locks. ARGV: their tokens.
_GIVE_UP = Script("""
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[i] then redis.call('UNLINK', key) end
end
return #KEYS
""")


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """An entry as Redis has it; the lives are counted from the answer. `fresh_seconds` is negative once stale."""

    payload: bytes
    fresh_seconds: float
    life_seconds: float
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """The right to load one entry: nobody else loads it while `token` is in Redis."""

    key: str
    token: str
    versions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """What `read_or_lock` found: a fresh entry; or a lock, or somebody else's, and what there is of a stale entry."""

    fresh: SharedEntry | None = None
    stale: SharedEntry | None = None
    lock: Lock | None = None


class SharedLevel:
    """The cache's keys in Redis."""

    def __init__(self, redis: RedisConnections) -> None:
        self.redis = redis
        self.channel = redis.key("cache", "changes")
        self._tags = redis.key("cache", "t", "")
        self._entries = redis.key("cache", "c", "")
        self._locks = redis.key("cache", "l", "")

    async def read(self, keys: Sequence[str]) -> list[SharedEntry | None]:
        """The entries under these keys, stale ones too, in one round trip."""
        answer = await self.redis.run(_READ, [self._entries + key for key in keys], [self._tags])
        return [_entry(item) for item in answer]

    async def read_or_lock(
        self, key: str, *, token: str, lock_seconds: float, life_seconds: float, tags: Sequence[str]
    ) -> Offer:
        """The entry where it is fresh, else the right to load it where nobody has it, in one round trip.

        life_seconds: how long an entry stored under this lock is kept.
        """
        names = (EVERYTHING, *(quote(tag, safe="") for tag in tags))
        tag_life_ms = _ms(life_seconds + lock_seconds) + 60_000
        arguments = [self._tags, token, _ms(lock_seconds), tag_life_ms, *names]
        state, found, *rest = await self.redis.run(
            _READ_OR_LOCK, [self._entries + key, self._locks + key], arguments
        )
        entry = _entry(found)
        if state == 0:
            return Offer(fresh=entry)
        return Offer(stale=entry, lock=Lock(key, token, tuple(rest[0])) if state == 1 else None)

    async def store(
        self,
        key: str,
        payload: bytes,
        *,
        fresh_seconds: float,
        life_seconds: float,
        tags: Sequence[str] = (),
        lock: Lock,
    ) -> bool:
        """Stores what was loaded under the lock and gives it up. False where something has changed since it was given.

        Nobody is told: what the other processes have is as old, and knows it.
        """
        arguments: list[Any] = [
            self._tags, lock.token, payload, _ms(fresh_seconds), _ms(life_seconds),
        ]  # fmt: skip
        for tag, version in zip((EVERYTHING, *tags), lock.versions, strict=True):
            arguments += (quote(tag, safe=""), version)
        return bool(await self.redis.run(_STORE, [self._entries + key, self._locks + key], arguments))

    async def store_many(
        self,
        payloads: Sequence[tuple[str, bytes]],
        *,
        life_seconds: float,
        tags: Sequence[str],
        message: bytes,
    ) -> None:
        """Stores all of them in one round trip, and tells the other processes once, at the end."""
        names = (EVERYTHING, *(quote(tag, safe="") for tag in tags))
        keys = [self._entries + key for key, _ in payloads] + [self._locks + key for key, _ in payloads]
        arguments = [self._tags, _ms(life_seconds), self.channel, message, len(names), *names]
        await self.redis.run(_STORE_ALL, keys, [*arguments, *(payload for _, payload in payloads)])

    async def drop(self, keys: Sequence[str], tags: Sequence[str], message: bytes) -> int:
        """Deletes these keys, voids these tags and tells the other processes. How many entries the keys named."""
        names = [
            *(self._entries + key for key in keys),
            *(self._locks + key for key in keys),
            *(self._tags + quote(tag, safe="") for tag in tags),
        ]
        return int(await self.redis.run(_DROP, names, [self.channel, message, len(keys)]))

    async def drop_prefix(self, prefix: str, message: bytes) -> int:
        """Deletes every entry whose key begins so, and tells the other processes. How many there were.

        Walks through all keys of the Redis in steps, twice; a tag is the better way where there may be millions.
        """
        escaped = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix)
        # All locks first. Whoever held one stores nothing from here on, so every old value that there will ever be is
        # there when the second walk begins, and a walk misses nothing that is there from its beginning to its end.
        await self._drop_matching(f"{self._locks}{escaped}*")
        gone = await self._drop_matching(f"{self._entries}{escaped}*")
        await self.redis.call(lambda client: client.publish(self.channel, message))
        return gone

    async def _drop_matching(self, pattern: str) -> int:
        cursor, gone = 0, 0
        while True:
            cursor, some = await self._drop_some(cursor, pattern)
            gone += some
            if cursor == 0:
                return gone

    async def _drop_some(self, cursor: int, pattern: str) -> tuple[int, int]:
        """Where the walk goes on, 0 at its end, and how many keys this step has deleted."""

        async def step(client: Any) -> tuple[int, int]:
            following, names = await client.scan(cursor, match=pattern, count=_SCAN_COUNT)
            # Counted by what was deleted: a walk may name a key twice.
            return following, int(await client.unlink(*names)) if names else 0

        return await self.redis.call(step)

    async def hold(self, lock: Lock, seconds: float) -> bool:
        """Keeps the lock for this much longer. False where it was somebody else's already."""
        return bool(await self.redis.run(_HOLD, [self._locks + lock.key], [lock.token, _ms(seconds)]))

    async def give_up(self, locks: Sequence[Lock]) -> None:
        """Ends those of these locks that are still there, in one round trip."""
        names = [self._locks + lock.key for lock in locks]
        await self.redis.run(_GIVE_UP, names, [lock.token for lock in locks])

    async def claim(self, name: str, seconds: float) -> bool:
        """Whether this process is the first to claim the name in this time."""
        key = self.redis.key("cache", "claim", name)
        return bool(await self.redis.call(lambda client: client.set(key, b"1", nx=True, px=_ms(seconds))))


def change_message(*, keys: Sequence[str] = (), tags: Sequence[str] = (), prefix: str | None = None) -> bytes:
    """What other processes are told to forget."""
    return orjson.dumps({"keys": keys, "tags": tags, "prefix": prefix})


def _entry(item: Any) -> SharedEntry | None:
    if not item:
        return None
    fresh_ms, life_ms, header, payload = item
    names = (pair.partition("=")[0] for pair in header.decode().split(","))
    return SharedEntry(
        payload, fresh_ms / 1000, life_ms / 1000, tuple(unquote(name) for name in names if name)
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
