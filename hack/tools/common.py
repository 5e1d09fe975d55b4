"""What the developer tools under hack/ share: the cache folder, running programs, and telling what goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

HEARTBEAT_SECONDS = 20
LOG_TAIL_LINES = 15


class ToolError(Exception):
    """Something a person has to act on: what went wrong, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def cache_root() -> Path:
    """The folder that holds everything that is costly to make and cheap to keep."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "scalable-fastapi-system"


def say(text: str) -> None:
    """Print a result; what goes on meanwhile is told on standard error, so that a script can use the result."""
    print(text, flush=True)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is being done, that it is still being done, and at last how long it took."""
    started = time.monotonic()
    finished = threading.Event()

    def beat() -> None:
        while not finished.wait(HEARTBEAT_SECONDS):
            tell(f"   ... {title}: {time.monotonic() - started:.0f} s so far")

    tell(f"-> {title}")
    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        finished.set()
        heart.join()
    tell(f"   done in {time.monotonic() - started:.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    hint: str = "",
) -> str:
    """Run a program to its end and give its standard output; a failure carries the end of what it printed."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolError(f"{words[0]}: not found on this machine", hint) from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LOG_TAIL_LINES:])
        raise ToolError(f"`{' '.join(words[:6])}` ended with status {done.returncode}:\n{tail}", hint)
    return done.stdout


def guarded(main: Callable[[], int]) -> None:
    """Run a command-line program: a ToolError becomes two clear lines and status 1, an interrupt status 130."""
    try:
        sys.exit(main())
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"next:  {error.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
