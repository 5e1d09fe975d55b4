"""The node's control groups: how its processes are found again, whatever else was lost."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from hack.hostkube.config import CGROUP

NODE_GROUP = f"{CGROUP}/system"
"""Where the components run; the pods are beside it, in a group that the kubelet makes."""

CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


def hierarchies(mounts: str) -> list[Path]:
    """The folders at which control groups are mounted, from the text of /proc/mounts: one (v2) or several (v1)."""
    entries = [line.split() for line in mounts.splitlines()]
    return [Path(entry[1]) for entry in entries if len(entry) > 2 and entry[2] in ("cgroup", "cgroup2")]


def mounted_hierarchies() -> list[Path]:
    return hierarchies(Path("/proc/mounts").read_text())


def make(group: Path, parent: Path) -> None:
    group.mkdir(exist_ok=True)
    for name in CPUSET_FILES:
        # In version 1 a new group may use no processor at all until it is told which.
        if (parent / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((parent / name).read_text())


def delegate(group: Path) -> None:
    """In version 2, let the groups below use every controller that this one has."""
    control = group / "cgroup.subtree_control"
    if control.exists():
        for controller in (group / "cgroup.controllers").read_text().split():
            control.write_text(f"+{controller}")


def join(name: str) -> None:
    """Put this process, and so all that it starts, into a group of every hierarchy; make the group if need be."""
    for root in mounted_hierarchies():
        group = root
        for part in Path(name).parts:
            delegate(group)
            make(group / part, group)
            group /= part
        (group / "cgroup.procs").write_text(str(os.getpid()))


def groups() -> list[Path]:
    """All of the node's groups, the innermost first."""
    found: list[Path] = []
    for root in mounted_hierarchies():
        top = root / CGROUP
        if top.is_dir():
            found += sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            found.append(top)
    return found


def processes() -> set[int]:
    """The ids of all processes of the node, its pods included."""
    found: set[int] = set()
    for group in groups():
        with suppress(FileNotFoundError):  # the group went away while we looked
            found.update(int(word) for word in (group / "cgroup.procs").read_text().split())
    return found


def kill_all(timeout: float = 30.0) -> bool:
    """End every process of the node at once; False when some of them resist."""
    deadline = time.monotonic() + timeout
    while alive := processes():
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def remove_all(timeout: float = 10.0) -> bool:
    """Remove the emptied groups; the kernel needs a moment until it takes a group for empty."""
    deadline = time.monotonic() + timeout
    while left := groups():
        for group in left:
            with suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
