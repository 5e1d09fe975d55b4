"""`hack/tools/install`: programs for working on the chart, built from Go modules at pinned versions."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from hack.tools.common import ToolError, cache_root, say, step
from hack.tools.golang import go_build, go_install, only_one
from hack.tools.pins import TOOLS, Tool


def stamp(tool: Tool, folder: Path) -> Path:
    return folder.parent / "stamps" / tool.name


def installed(tool: Tool, folder: Path) -> bool:
    """Whether this program is there, made by this recipe."""
    note = stamp(tool, folder)
    return (folder / tool.name).exists() and note.exists() and note.read_text() == tool.recipe()


def install(tool: Tool, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        built = Path(temporary) / Path(tool.package).name
        if tool.module:
            go_build(tool.module, tool.package, built, tool.link_flags())
        else:
            go_install(tool.package, tool.version, Path(temporary), tool.link_flags(), tool.tags)
        built.rename(folder / tool.name)
    note = stamp(tool, folder)
    note.parent.mkdir(exist_ok=True)
    note.write_text(tool.recipe())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="hack/tools/install", description="Install tools into the cache and print that folder."
    )
    parser.add_argument("tools", nargs="*", metavar="TOOL", help="default: all of them")
    names = parser.parse_args().tools
    known = {tool.name: tool for tool in TOOLS}
    if unknown := [name for name in names if name not in known]:
        raise ToolError(f"no such tool: {' '.join(unknown)}", f"there are: {' '.join(known)}")
    wanted = [known[name] for name in names] or list(TOOLS)
    folder = cache_root() / "tools" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    with only_one("install", folder.parent):
        missing = [tool for tool in wanted if not installed(tool, folder)]
        if missing and shutil.which("go") is None:
            raise ToolError(
                f"`go` is not on PATH, and these tools are built with it: {' '.join(t.name for t in missing)}",
                "install Go 1.24 or newer and run this again, or put these tools on PATH yourself",
            )
        for tool in missing:
            with step(f"build {tool.name} {tool.version}"):
                install(tool, folder)
    say(str(folder))
    return 0
