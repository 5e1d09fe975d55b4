"""A virtual environment with what a service's image installs and nothing else, as its Dockerfile makes it.

The environment that develops and measures has more in it, and libraries import what they find (structlog: rich).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY

# The images put the sources onto it just so.
PYTHONPATH = ":".join(
    str(REPOSITORY / folder)
    for folder in ("", "packages/scalable_fastapi_system/src", "packages/domains/src")
)
_PATIENCE_SECONDS = 300


def make(folder: Path, service: str) -> Path:
    """Its interpreter. Raises DevError where uv's cache does not hold what `make setup` left there."""
    environment = folder / f"venv-{service}"
    uv = Path(sys.executable).with_name("uv")
    python = environment / "bin" / "python"
    locked = REPOSITORY / "requirements" / f"{service}.txt"
    _run([uv, "venv", "--quiet", "--python", sys.executable, environment])
    _run(
        [
            uv,
            "pip",
            "sync",
            "--quiet",
            "--offline",
            "--compile-bytecode",
            "--require-hashes",
            "--python",
            python,
            locked,
        ]
    )
    return python


def site_packages(python: Path) -> Path:
    """Where its libraries are."""
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def _run(command: list[str | Path]) -> None:
    result = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS
    )
    if result.returncode != 0:
        raise DevError(
            f"{' '.join(str(word) for word in command[:3])} failed",
            log=result.stderr.splitlines()[-15:],
            advice="Fill uv's cache: make clean setup",
        )
