"""Finding helm, kubectl and kind: on PATH, in the tools' cache folder, or among hostkube's own programs."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from hack.hostkube.config import binaries
from hack.tools.common import REPOSITORY, ToolError, cache_root, run, step
from hack.tools.pins import TOOLS

INSTALLER = REPOSITORY / "hack" / "tools" / "install"
INSTALLABLE = frozenset(tool.name for tool in TOOLS)


@cache
def program(name: str) -> str:
    """The path of a program, which is built into the cache folder where it can be. Raises ToolError otherwise."""
    require(name)
    return _find(name) or name


def require(*names: str) -> None:
    """Have all these programs before anything is started with one of them. Raises ToolError where one cannot be had."""
    missing = [name for name in names if not _find(name)]
    if missing and INSTALLABLE.issuperset(missing):
        with step(f"install {', '.join(missing)}"):
            run([INSTALLER, *missing])
    for name in missing:
        if not _find(name):
            hint = f"install {name} and run this again"
            raise ToolError(f"{name}: not found on PATH, nor in {cache_root()}", hint)


def _find(name: str) -> str | None:
    folders = [str(cache_root() / "tools" / "bin"), os.environ.get("PATH", ""), str(binaries())]
    return shutil.which(name, path=os.pathsep.join(folders))


def answers(*command: str | Path) -> bool:
    """Whether a command can be run and succeeds."""
    if shutil.which(str(command[0])) is None:
        return False
    try:
        run(list(command))
    except ToolError:
        return False
    return True
