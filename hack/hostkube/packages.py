"""Debian packages: installed only when something is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hack.hostkube.config import DEBIAN_PACKAGES
from hack.tools.common import ToolError, run, step

# Without these, installing a server package on a machine with an init system would also start that server.
QUIET_INSTALL = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


def missing_packages() -> list[str]:
    return [name for name, proof in DEBIAN_PACKAGES.items() if not Path(proof).exists()]


def ensure_packages() -> None:
    """Install what is missing; package lists are fetched only when the install fails without."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0:
        raise ToolError(f"missing Debian packages: {' '.join(missing)}", "run `hostkube build` as root")
    if shutil.which("apt-get") is None:
        raise ToolError(
            f"missing programs: {' '.join(missing)}, and this machine has no apt-get",
            "hostkube is made for Debian bookworm; elsewhere use kind",
        )
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    with step(f"install Debian packages: {' '.join(missing)}"):
        try:
            run(install, env=QUIET_INSTALL)
        except ToolError:
            run(["apt-get", "update", "-qq"])
            run(install, env=QUIET_INSTALL)
