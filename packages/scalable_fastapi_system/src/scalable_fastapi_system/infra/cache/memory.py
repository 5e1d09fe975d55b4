"""The memory level: bounded in bytes, least recently used out first, safe to use from several threads.

It holds encoded values, so that its size is known, no caller can change what another gets, and a hit has the same
types as an answer of Redis.

A value that was read elsewhere may be out of date before it arrives here. So whoever reads takes a `mark` first and
hands it to `put`: what was dropped since that mark is not put.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

# What an entry costs beside its key and payload: the entry, its floats, its places in the tables.
ENTRY_OVERHEAD_BYTES = 400
_TAG_OVERHEAD_BYTES = 200
_REMEMBERED_DROPS = 4096

Name = tuple[Literal["key", "tag"], str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One value. The moments are monotonic seconds of this process.

    fresh_until: from then on it is stale: only for callers who take stale values.
    expires_at: from then on it is gone.
    trusted_until: a copy of what Redis holds is looked up there again from then on.
    stands_in_until: while Redis is away, the copy is used up to then.
    """

    payload: bytes
    fresh_until: float
    expires_at: float
    trusted_until: float
    stands_in_until: float
    tags: tuple[str, ...] = ()


class MemoryLevel:
    """Entries by key, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._by_tag: dict[str, set[str]] = {}
        self._bytes = 0
        self._evictions = 0
        self._lock = threading.Lock()
        self._drops = 0
        # When each key or tag was last dropped; what is not in here was dropped at `_floor` at the latest.
        self._dropped: OrderedDict[Name, int] = OrderedDict()
        self._floor = 0

    @property
    def size_bytes(self) -> int:
        """What the entries cost, as far as it can be told."""
        return self._bytes

    @property
    def evictions(self) -> int:
        """Entries that had to go for others."""
        return self._evictions

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The entry, which may be past its moments."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def mark(self) -> int:
        """The present, as `put` understands it."""
        return self._drops

    def was_dropped(self, key: str, tags: Iterable[str], since: int) -> bool:
        """Whether the key or one of the tags was dropped after the mark; True also where that is not known any more."""
        with self._lock:
            return self._was_dropped(key, tags, since)

    def put(self, key: str, entry: Entry, *, since: int | None = None) -> bool:
        """Keeps the entry; False where it is too large, or was dropped after `since`."""
        size = _size(key, entry)
        with self._lock:
            if since is not None and self._was_dropped(key, entry.tags, since):
                return False
            self._remove(key)
            if size > self.max_bytes:
                return False
            self._entries[key] = entry
            self._bytes += size
            for tag in entry.tags:
                self._by_tag.setdefault(tag, set()).add(key)
            while self._bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
                self._evictions += 1
            return True

    def drop(self, keys: Iterable[str] = (), tags: Iterable[str] = ()) -> None:
        """Forgets these keys and every entry with one of these tags."""
        with self._lock:
            for tag in tags:
                self._note_drop(("tag", tag))
                for key in list(self._by_tag.get(tag, ())):
                    self._remove(key)
            for key in keys:
                self._note_drop(("key", key))
                self._remove(key)

    def drop_prefix(self, prefix: str) -> None:
        """Forgets every key that begins so."""
        self._drop_where(lambda key: key.startswith(prefix))

    def clear(self) -> None:
        """Forgets everything."""
        self._drop_where(lambda _key: True)

    def _drop_where(self, is_meant: Callable[[str], bool]) -> None:
        with self._lock:
            self._drops += 1
            self._floor = self._drops  # every put that began before is refused, wanted or not
            for key in [key for key in self._entries if is_meant(key)]:
                self._remove(key)

    def _note_drop(self, name: Name) -> None:
        self._drops += 1
        self._dropped[name] = self._drops
        self._dropped.move_to_end(name)
        if len(self._dropped) > _REMEMBERED_DROPS:
            _, forgotten = self._dropped.popitem(last=False)
            self._floor = max(self._floor, forgotten)  # a prefix or `clear` may have raised it higher

    def _was_dropped(self, key: str, tags: Iterable[str], since: int) -> bool:
        if since == self._drops:
            return False
        if since < self._floor:
            return True
        dropped = self._dropped
        return dropped.get(("key", key), 0) > since or any(
            dropped.get(("tag", tag), 0) > since for tag in tags
        )

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= _size(key, entry)
        for tag in entry.tags:
            keys = self._by_tag[tag]
            keys.discard(key)
            if not keys:
                del self._by_tag[tag]


def _size(key: str, entry: Entry) -> int:
    return (
        ENTRY_OVERHEAD_BYTES
        + sys.getsizeof(key)
        + sys.getsizeof(entry.payload)
        + sum(_TAG_OVERHEAD_BYTES + len(tag) for tag in entry.tags)
    )
