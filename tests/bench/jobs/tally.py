"""What handlers tell the bench, the same way for every contender: a count and a moment in a shared file.

Each process has a slot of 16 bytes of its own: how many jobs it ran, and the monotonic nanosecond of the last start.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

PATH_VARIABLE = "BENCH_TALLY"
SLOT_VARIABLE = "BENCH_SLOT"
SLOTS = 16
_SLOT = struct.Struct("=qq")


class Tally:
    """The file, seen by the bench (all slots) or by a worker (its own)."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_SLOT.size * SLOTS))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SLOT.size * SLOTS)
        self._offset = _SLOT.size * int(os.environ.get(SLOT_VARIABLE, "0"))
        self._count = 0

    @classmethod
    def of_worker(cls) -> Tally:
        """The tally that the bench named in the environment."""
        return cls(Path(os.environ[PATH_VARIABLE]))

    def add(self) -> None:
        """A handler started."""
        self._count += 1
        _SLOT.pack_into(self._memory, self._offset, self._count, time.monotonic_ns())

    def total(self) -> int:
        """How many handlers started, in all processes."""
        return sum(self._slot(index)[0] for index in range(SLOTS))

    def last_start_ns(self) -> int:
        """When the last one did."""
        return max(self._slot(index)[1] for index in range(SLOTS))

    def clear(self) -> None:
        """Back to nothing; no worker may be running."""
        self._memory[:] = bytes(len(self._memory))

    def _slot(self, index: int) -> tuple[int, int]:
        count, moment = _SLOT.unpack_from(self._memory, index * _SLOT.size)
        return count, moment
