"""Where `make run` keeps everything: `.local/`, ignored by git, safe to delete while nothing runs.

    secrets.json   made once: store passwords and the signing key (mode 0600)
    ports.json     the ports of Postgres, Redis and the worker, remembered so that clients can be
    run.json       while it runs: URLs and process ids, for tools (mode 0600: the URLs hold passwords)
    children.json  while it runs: what the next run must end if this one is killed
    lock           held while it runs; the system lets go of it however the launcher ends
    logs/ postgres/ redis/ storage/

Fails with DevError where a file is not ours or is not what we wrote.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hack.dev import ports
from hack.dev.errors import DevError
from hack.dev.processes import ProcessMark

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Secrets:
    """What a development machine needs to keep to itself; made at random once, and kept with the data."""

    postgres_superuser_password: str
    postgres_app_password: str
    redis_password: str
    secret_key: str

    @classmethod
    def generate(cls) -> Secrets:
        """New ones, 256 bits each."""
        return cls(*(secrets.token_urlsafe(32) for _ in range(4)))


class Layout:
    """The files of one `.local` folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.postgres_data = folder / "postgres"
        self.redis_data = folder / "redis"
        self.storage = folder / "storage"
        self._lock_descriptor: int | None = None

    @classmethod
    def of(cls, repository: Path) -> Layout:
        """The layout of a checkout."""
        return cls(repository / ".local")

    def log(self, name: str) -> Path:
        """The log file of one child."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the folders. Others may enter `.local`, not list it: Postgres may run as another account."""
        try:
            self.folder.mkdir(exist_ok=True)
            self.folder.chmod(0o711)
            for folder in (self.logs, self.storage):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DevError(f"cannot make {self.folder}: {error}") from error

    def acquire(self) -> bool:
        """Take the lock; False when another launcher holds it. It lasts until `release` or our end."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._lock_descriptor = descriptor
        return True

    def holder(self) -> int | None:
        """The process id of the launcher that took the lock last; None when there never was one."""
        try:
            return int((self.folder / "lock").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def secrets(self) -> Secrets:
        """The secrets, made at the first call."""
        path = self.folder / "secrets.json"
        known = _read(path)
        if known is None:
            made = Secrets.generate()
            _write(path, asdict(made))
            return made
        try:
            return Secrets(**known)
        except TypeError as error:
            raise DevError(f"{path} is not what this version wrote: {error}", advice=_afresh(self)) from error

    def port(self, name: str, *, preferred: int = 0, avoid: int = 0) -> int:
        """A free port for `name`, never `avoid`: `preferred`, else last time's, else any; then remembered."""
        path = self.folder / "ports.json"
        known = _read(path) or {}
        for port in (preferred, known.get(name)):
            if isinstance(port, int) and port not in {0, avoid} and ports.is_free(port):
                break
        else:
            port = ports.find_free()
        if known.get(name) != port:
            _write(path, {**known, name: port})
        return port

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Publish the running system's URLs and process ids."""
        _write(self.folder / "run.json", facts)

    def read_run(self) -> dict[str, Any] | None:
        """The running system's URLs and process ids; None when none is published."""
        return _read(self.folder / "run.json")

    def remove_run(self) -> None:
        """Withdraw what `write_run` published."""
        (self.folder / "run.json").unlink(missing_ok=True)

    def write_children(self, marks: Iterable[ProcessMark]) -> None:
        """Record the children to be ended by the next run if this one cannot."""
        _write(self.folder / "children.json", {"children": [asdict(mark) for mark in marks]})

    def read_children(self) -> list[ProcessMark]:
        """The children that a run recorded and never struck off."""
        known = _read(self.folder / "children.json") or {"children": []}
        try:
            return [ProcessMark(**entry) for entry in known["children"]]
        except (KeyError, TypeError) as error:
            path = self.folder / "children.json"
            raise DevError(f"{path} is not what this version wrote: {error}", advice=_afresh(self)) from error

    def remove_children(self) -> None:
        """Strike the children off: all have ended."""
        (self.folder / "children.json").unlink(missing_ok=True)


def _afresh(layout: Layout) -> str:
    return f"Start afresh (this deletes the development data): rm -rf {layout.folder}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (PermissionError, ValueError) as error:
        raise DevError(f"cannot read {path}: {error}", advice=f"Remove it: rm {path}") from error
    if not isinstance(value, dict):
        raise DevError(f"cannot read {path}: not an object", advice=f"Remove it: rm {path}")
    return value


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file in one step, so that a reader never sees half of it; readable by us alone."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    fresh.replace(path)
