"""For the dev loop: runs a command, and anew each time that a Python source of this product changes.

    python -m services.reload gunicorn -c services/api/gunicorn.conf.py services.api.main:app

The command is the real one, so that a change is tried on the same server that production runs. It is told to end
(SIGTERM) and given its time; one that ends by itself is started again at the next change, so that a syntax error
costs no container. SIGTERM and SIGINT end the command and then this.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

FOLDERS = ("packages", "services")
PAUSE_SECONDS = 0.5
STOP_SECONDS = 30.0  # for requests and jobs at work; then it is killed


def snapshot(folders: Iterable[Path]) -> dict[Path, int]:
    """Every Python source under the folders with its time of change, in nanoseconds."""
    times: dict[Path, int] = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # replaced at this moment
                times[path] = 0
    return times


class Reloader:
    """One command, kept running."""

    def __init__(self, command: Sequence[str], folders: Sequence[Path]) -> None:
        self._command = list(command)
        self._folders = folders
        self._is_ending = False

    def run(self) -> int:
        """Until this process is told to end; the exit code."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        while not self._is_ending:
            before = snapshot(self._folders)
            child = subprocess.Popen(self._command)  # noqa: S603 - the command that the developer gave
            changed = self._wait_for_change(before, child)
            self._stop(child)
            if changed:
                self._say(f"{', '.join(sorted(path.name for path in changed)[:3])} changed: starting anew")
        return 0

    def _wait_for_change(self, before: dict[Path, int], child: subprocess.Popen[bytes]) -> set[Path]:
        has_ended = False
        while not self._is_ending:
            time.sleep(PAUSE_SECONDS)
            now = snapshot(self._folders)
            if now != before:
                return {path for path in now.keys() | before.keys() if now.get(path) != before.get(path)}
            if not has_ended and child.poll() is not None:
                has_ended = True
                self._say(f"the command ended with status {child.returncode}: waiting for a change")
        return set()

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_ending = True

    def _say(self, text: str) -> None:
        sys.stderr.write(f"reload: {text}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m services.reload COMMAND [ARGUMENT ...]")
    sys.exit(Reloader(sys.argv[1:], [Path(folder) for folder in FOLDERS]).run())
