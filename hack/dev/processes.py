"""Child processes that outlive nothing: each in a session of its own, logging to a file, ended as a group.

A child started here never receives the terminal's Ctrl-C: whoever started it decides the order of the end.
What a killed launcher leaves behind is found again by process id and start time, so that a reused id is
never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hack.dev.errors import DevError

POLL_SECONDS = 0.02
# psutil derives a start time from the boot time, which moves when the clock is set: within this, it is the same
START_TIME_TOLERANCE_SECONDS = 5.0


@dataclass(frozen=True)
class ProcessMark:
    """A process that can be recognised later: our name for it, its id, when it began (Unix seconds)."""

    name: str
    pid: int
    started_at: float

    @classmethod
    def of(cls, name: str, pid: int) -> ProcessMark:
        """Mark the running process `pid`; raises psutil.NoSuchProcess when it is gone."""
        return cls(name=name, pid=pid, started_at=psutil.Process(pid).create_time())

    def is_running(self) -> bool:
        """Whether this very process is alive (neither gone, nor a zombie, nor another one with its id)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) <= START_TIME_TOLERANCE_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def marks_below(name: str, pid: int) -> list[ProcessMark]:
    """The processes that `pid` has started, and those that these have."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found.append(ProcessMark.of(name, process.pid))
    return found


def end(mark: ProcessMark, *, first_signal: signal.Signals = signal.SIGTERM, grace_seconds: float) -> bool:
    """End a process that is not our child; False when it outstayed the grace and was killed."""
    if not mark.is_running():
        return True
    with suppress(ProcessLookupError):
        os.kill(mark.pid, first_signal)
    went = wait_until(lambda: not mark.is_running(), timeout_seconds=grace_seconds)
    kill_group(mark.pid)
    if not went and not wait_until(lambda: not mark.is_running(), timeout_seconds=5):
        raise DevError(f"{mark.name} (process {mark.pid}) does not end, not even by SIGKILL")
    return went


def kill_group(pid: int) -> None:
    """SIGKILL what is left of the process group that `pid` leads; nothing when there is none."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Poll until `condition()` holds; False when it does not within the time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


@dataclass(frozen=True)
class Account:
    """The system account a child runs as, other than our own."""

    uid: int
    gid: int


class Child:
    """One child process, its output appended to `log_path`; may be started again after it has ended."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log_path = log_path
        self.cwd = cwd
        self.environment = dict(os.environ if environment is None else environment)
        self.account = account
        self.stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._log_start_bytes = 0

    @property
    def pid(self) -> int:
        """The id of the running (or last) process; an error before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs (or was never started); negative for the number of the signal that ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; DevError when the program is missing or may not be run."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is already running")
        self._is_over = False
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.cwd,
                    env=self.environment,
                    start_new_session=True,
                    user=self.account.uid if self.account else None,
                    group=self.account.gid if self.account else None,
                    extra_groups=[] if self.account else None,
                )
            except OSError as error:
                raise DevError(f"{self.name} cannot be started: {error}", advice="Try: make setup") from error

    def mark(self) -> ProcessMark:
        """The mark by which a later run recognises this process; psutil.NoSuchProcess when it is gone."""
        return ProcessMark.of(self.name, self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself (not its group); nothing when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, *, grace_seconds: float) -> bool:
        """Ask it to stop, and kill its whole group after the grace; True when it stopped by itself."""
        self.signal(self.stop_signal)
        return self.wait_or_kill(grace_seconds=grace_seconds)

    def wait_or_kill(self, *, grace_seconds: float) -> bool:
        """Wait for the end, and kill the group after the grace; True when it ended by itself."""
        if self._process is None or self._is_over:
            return True
        try:
            self._process.wait(grace_seconds)
            went = True
        except subprocess.TimeoutExpired:
            went = False
        kill_group(self._process.pid)
        self._process.wait()
        self._is_over = True  # from here on the id may belong to someone else's group
        return went

    def kill(self) -> None:
        """SIGKILL the process and what is left of its group, and reap it."""
        self.signal(signal.SIGKILL)
        self.wait_or_kill(grace_seconds=5)

    def freeze(self) -> None:
        """Stop the process and all its descendants in mid-step (SIGSTOP): connections stay open, none is served."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):  # a child that ends just now
                process.suspend()

    def thaw(self) -> None:
        """Let a frozen family go on."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def describe_exit(self) -> str:
        """How it ended, in words: "exited with code 3", "was killed by SIGKILL"."""
        code = self.exit_code
        if code is None:
            return "is running"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def log_tail(self, count: int = 15) -> list[str]:
        """The last lines that this start of the process wrote."""
        return tail(self.log_path, count=count, from_byte=self._log_start_bytes)


def tail(path: Path, *, count: int, from_byte: int = 0) -> list[str]:
    """The last `count` lines of a file past `from_byte`, out of its last 64 KiB; [] without a file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(from_byte, size - 65_536))
            return file.read().decode("utf-8", errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
