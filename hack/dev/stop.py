"""`make stop`: end this checkout's `make run` from elsewhere, or what a killed one left behind.

Exits with 0 when nothing runs afterwards, also when nothing ran; with 1 when the launcher does not end.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY, Layout
from hack.dev.leftovers import end_leftovers
from hack.dev.processes import wait_until

# The launcher's own bounds: two services at 30 s, two stores at 10 s.
TIMEOUT_SECONDS = 90.0


def stop(folder: Path) -> str:
    """Stop what runs on the folder's `.local`; what was done, in words."""
    layout = Layout.of(folder)
    if not layout.folder.exists():
        return "Nothing is running."
    if layout.acquire():
        try:
            ended = end_leftovers(layout, announce=print)
        finally:
            layout.release()
        return f"Ended {ended} processes that a killed run had left." if ended else "Nothing is running."
    holder = layout.holder()
    if holder is None:
        raise DevError(f"{layout.folder / 'lock'} is held, and does not say by whom", advice="Try again.")
    with suppress(ProcessLookupError):
        os.kill(holder, signal.SIGTERM)
    if not wait_until(layout.acquire, timeout_seconds=TIMEOUT_SECONDS):
        raise DevError(f"the launcher (process {holder}) did not stop within {TIMEOUT_SECONDS:.0f} s")
    layout.release()
    return "Stopped."


if __name__ == "__main__":
    try:
        print(stop(REPOSITORY))
    except DevError as error:
        sys.exit(error.describe())
