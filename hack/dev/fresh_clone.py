"""A newcomer's first hour in a few minutes: clone, `make run`, the README's commands, Ctrl-C, again, `make test`.

Works on what is committed, in a temporary folder with an empty HOME, so that nothing of this machine's caches
or settings helps. Every step is bounded in time. Prints what each took; exits with 1 and the output of the step
that failed. Only the standard library, since there is no environment yet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hack.dev import readme

REPOSITORY = Path(__file__).resolve().parents[2]
COLD_START_SECONDS = 900.0
WARM_START_SECONDS = 10.0
COMMANDS_SECONDS = 120.0
STOP_SECONDS = 90.0
TEST_SECONDS = 3000.0
# Of the table that the README uploads.
EXPECTED_ROWS = 1461

T = TypeVar("T")


class FailedError(Exception):
    """A step did not go as the README says."""


class Newcomer:
    """One clone and its owner's empty home."""

    def __init__(self, folder: Path, *, port: int) -> None:
        self.clone = folder / "clone"
        self.output = folder / "output"
        self.port = port
        home = folder / "home"
        home.mkdir()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "VIRTUAL_ENV", "PYTHON", "MAKE", "MFLAGS")) and "__" not in name
        }
        self.environment = {**inherited, "HOME": str(home)}

    def get_the_code(self) -> None:
        """Clone what is committed."""
        command = ["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(self.clone)]
        subprocess.run(command, check=True, env=os.environ)

    def start(self, *, timeout_seconds: float) -> subprocess.Popen[bytes]:
        """`make run` in a session of its own, as in another terminal; returns when it says that it is ready."""
        with self.output.open("wb") as file:
            process = subprocess.Popen(
                ["make", "run", f"PORT={self.port}"],
                cwd=self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_seconds
        while "Ready: " not in self.output.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                text = self.output.read_text(errors="replace")
                raise FailedError(f"make run was not ready within {timeout_seconds:.0f} s:\n{text}")
            time.sleep(0.05)
        return process

    def facts(self) -> dict[str, Any] | None:
        """What `make run` publishes."""
        with suppress(FileNotFoundError):
            value: dict[str, Any] = json.loads((self.clone / ".local" / "run.json").read_text())
            return value
        return None

    def follow_the_readme(self) -> str:
        """Paste the README's commands into a shell; what they print."""
        commands = readme.block(self.clone / "README.md", "try-next", port=self.port)
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMANDS_SECONDS,
            check=False,
        )
        said = f"{result.stdout}{result.stderr}"
        if result.returncode != 0 or f'"rows": {EXPECTED_ROWS}' not in said:
            log = "\n".join(self.output.read_text(errors="replace").splitlines()[-40:])
            raise FailedError(
                f"the README's commands end with {result.returncode} and print:\n{said}\nmake run's last lines:\n{log}"
            )
        return said

    def interrupt(self, process: subprocess.Popen[bytes]) -> None:
        """Ctrl-C: the terminal sends it to make and to the launcher alike. Nothing may be left."""
        facts = self.facts()
        if facts is None:
            raise FailedError("make run published no .local/run.json")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(STOP_SECONDS)
        left = [name for name, pid in facts["pids"].items() if _is_alive(pid)]
        if left or self.facts() is not None:
            raise FailedError(f"after Ctrl-C there is still: {left or '.local/run.json'}")

    def make(self, target: str, *, timeout_seconds: float) -> str:
        """Run a target to its end; its output."""
        result = subprocess.run(
            ["make", target],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if result.returncode != 0:
            raise FailedError(
                f"make {target} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
            )
        return result.stdout


def main() -> int:
    """Go through it all; the exit code."""
    parser = argparse.ArgumentParser(prog="fresh-clone", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="for the API (8000)")
    parser.add_argument("--skip-tests", action="store_true", help="leave out make test")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fresh-clone-"))
    folder.chmod(0o711)
    newcomer = Newcomer(folder, port=options.port)
    try:
        _timed("git clone", newcomer.get_the_code)
        process = _timed("make run, cold", lambda: newcomer.start(timeout_seconds=COLD_START_SECONDS))
        print(_timed("the README's commands", newcomer.follow_the_readme))
        _timed("Ctrl-C", lambda: newcomer.interrupt(process))
        _timed("make run, warm", lambda: newcomer.start(timeout_seconds=WARM_START_SECONDS))
        _timed("make stop", lambda: newcomer.make("stop", timeout_seconds=STOP_SECONDS))
        if not options.skip_tests:
            output = _timed("make test", lambda: newcomer.make("test", timeout_seconds=TEST_SECONDS))
            print(output.rstrip().rpartition("\n")[2])
    except (FailedError, subprocess.SubprocessError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if (newcomer.clone / ".venv" / ".setup").exists():
            with suppress(FailedError, subprocess.SubprocessError):
                newcomer.make("stop", timeout_seconds=STOP_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _timed(name: str, step: Callable[[], T]) -> T:
    began = time.monotonic()
    result = step()
    print(f"{time.monotonic() - began:7.1f} s  {name}", flush=True)
    return result


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    # a zombie that the system has yet to reap is no process any more
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


if __name__ == "__main__":
    sys.exit(main())
