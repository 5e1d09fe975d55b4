"""`make run` in a folder of its own: how long until it says that everything is ready, at the first start and the next."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.processes import Child, wait_until

_READY = "Ready: "
_PATIENCE_SECONDS = 180.0
_GRACE_SECONDS = 60.0


def measure(starts: int) -> tuple[float, list[float]]:
    """Seconds of the first start, which makes the database, and of each that follows. Raises DevError where one fails."""
    with tempfile.TemporaryDirectory(prefix="sfs-run-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres runs as another account where root runs this
        taken = [_start(folder) for _ in range(1 + starts)]
    return taken[0], taken[1:]


def _start(folder: Path) -> float:
    command = [sys.executable, "-m", "hack.dev.run", "--port", str(find_free()), "--folder", str(folder)]
    run = Child("make run", command, log_path=folder / "run.log", cwd=REPOSITORY)
    started = time.monotonic()
    run.start()
    try:
        wait_until(
            lambda: not run.is_running or any(line.startswith(_READY) for line in run.log_tail(100)),
            timeout_seconds=_PATIENCE_SECONDS,
        )
        seconds = time.monotonic() - started
        if not any(line.startswith(_READY) for line in run.log_tail(100)):
            raise DevError(f"make run was not ready within {_PATIENCE_SECONDS:.0f} s", log=run.log_tail(25))
    finally:
        run.stop(grace_seconds=_GRACE_SECONDS)
    print(f"make run is ready after {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds
