"""Building programs from Go modules at pinned versions."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.tools.common import ToolError, run

# Static programs, without the build machine's paths in them, made from exactly the modules that go.sum names.
GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}
STRIP = "-s -w"


def require_go(what_for: str) -> None:
    if shutil.which("go") is None:
        raise ToolError(
            f"`go` is not on PATH, and {what_for} is built from Go modules",
            "install Go 1.24 or newer, put its bin folder on PATH, and run this again",
        )


def go_install(package: str, version: str, folder: Path, flags: str = STRIP, tags: str = "") -> None:
    """Put the program of a published package into a folder, under the name that Go gives it."""
    environment = {**GO_ENVIRONMENT, "GOFLAGS": "-trimpath -buildvcs=false", "GOBIN": str(folder)}
    run(["nice", "go", "install", "-tags", tags, "-ldflags", flags, f"{package}@v{version}"], env=environment)


def go_build(module: Path, package: str, target: Path, flags: str = STRIP) -> None:
    """Build one package with the versions that the go.mod in a folder of ours pins."""
    command: list[str | Path] = ["nice", "go", "build", "-ldflags", flags, "-o", target, package]
    run(command, env=GO_ENVIRONMENT, cwd=module)


def download_module(module: str, version: str) -> Path:
    """The folder with the source of a published module."""
    with tempfile.TemporaryDirectory() as nowhere:
        command = ["go", "mod", "download", "-json", f"{module}@v{version}"]
        answer = json.loads(run(command, env={"GOFLAGS": "", "GOWORK": "off"}, cwd=Path(nowhere)))
    return Path(answer["Dir"])


@contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` only at the end, so that an interrupted run never looks finished."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def only_one(name: str, folder: Path) -> Iterator[None]:
    """Let a second run of the same work wait for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
