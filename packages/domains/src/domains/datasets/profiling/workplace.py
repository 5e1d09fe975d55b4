"""A folder on this machine's disk for one profile at a time, which a process that died does not leave for good."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "dataset-profile-"


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder in the machine's temporary one, removed at the end. Clears away those of dead processes first."""
    _clear_abandoned()
    home = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            work = home / "work"
            work.mkdir()
            yield work
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _clear_abandoned() -> None:
    """A lock dies with its process: a folder whose lock can be had belongs to nobody."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (home / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)
