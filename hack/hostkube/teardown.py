"""Stop the node and remove every trace of it, in whatever state it is."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from hack.hostkube import cgroups
from hack.hostkube.config import KUBECONFIG, LINK, ROUTE_PROTOCOL, RUN, STATE
from hack.tools.common import ToolError, run


def mounts_under(folders: tuple[Path, ...], mountinfo: str) -> list[Path]:
    """The mount points in or below some folders, the innermost first, from the text of /proc/self/mountinfo."""
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in mountinfo.splitlines()]
    ours = [point for point in points if any(point.is_relative_to(folder) for folder in folders)]
    return sorted(ours, key=lambda point: len(point.parts), reverse=True)


def tear_down() -> bool:
    """Remove the node; True when there was something to remove."""
    found = bool(cgroups.groups()) or RUN.exists() or STATE.exists() or link_exists()
    if not cgroups.kill_all():
        left = ", ".join(str(pid) for pid in sorted(cgroups.processes()))
        raise ToolError(
            f"these processes of the node do not end: {left}", "see `ps -fp` for them, then run `down` again"
        )
    if not cgroups.remove_all():
        raise ToolError("the node's control groups cannot be removed", "run `hostkube down` again")
    remove_network()
    remove_folders()
    KUBECONFIG.unlink(missing_ok=True)
    with suppress(OSError):
        KUBECONFIG.parent.rmdir()
    return found


def link_exists() -> bool:
    return Path("/sys/class/net", LINK).exists()


def remove_network() -> None:
    """The link goes with its namespace, but only when the kernel gets round to it; the fallback routes never would."""
    subprocess.run(["ip", "link", "delete", LINK], capture_output=True, check=False)
    subprocess.run(["ip", "route", "flush", "protocol", ROUTE_PROTOCOL], capture_output=True, check=False)


def remove_folders() -> None:
    # The node's mounts live in a namespace of its own. One that shows here was made by hand, and removing files
    # through it could reach anything.
    for point in mounts_under((RUN, STATE), Path("/proc/self/mountinfo").read_text()):
        run(["umount", point], hint=f"unmount {point} by hand, then run `hostkube down` again")
    for folder in (RUN, STATE):
        if folder.exists():
            shutil.rmtree(folder)
