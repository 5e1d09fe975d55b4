"""What it takes to import the library and to make the application, each time in a fresh interpreter."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from tests.bench.footprint.environments import PYTHONPATH

STATEMENTS = {
    "`import scalable_fastapi_system`": "import scalable_fastapi_system",
    "`from scalable_fastapi_system import create_app`": "from scalable_fastapi_system import create_app",
    "`create_app()` too": "from scalable_fastapi_system import create_app; create_app()",
    "`import fastapi, sqlalchemy.ext.asyncio`, for comparison": "import fastapi, sqlalchemy.ext.asyncio",
}
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)$", re.MULTILINE)
_PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Took:
    """Beyond what the interpreter takes to do nothing. The processor's seconds are what neighbours move less."""

    seconds: float
    cpu_seconds: float


def measure(python: Path, tries: int) -> dict[str, Took]:
    """The medians, by statement."""
    nothing = _run_often(python, "pass", tries)
    taken = {name: _run_often(python, code, tries) for name, code in STATEMENTS.items()}
    return {
        name: Took(took.seconds - nothing.seconds, took.cpu_seconds - nothing.cpu_seconds)
        for name, took in taken.items()
    }


def dearest(python: Path, count: int) -> list[tuple[str, float]]:
    """The top-level packages whose own modules take longest to import with `create_app`, in milliseconds."""
    result = _run(python, STATEMENTS["`from scalable_fastapi_system import create_app`"], "-X", "importtime")
    return by_package(result.stderr)[:count]


def by_package(importtime: str) -> list[tuple[str, float]]:
    """What `-X importtime` wrote, as milliseconds by top-level package, the dearest first."""
    sums: dict[str, float] = {}
    for own_us, module in _LINE.findall(importtime):
        package = module.partition(".")[0]
        sums[package] = sums.get(package, 0.0) + int(own_us) / 1000
    return sorted(sums.items(), key=lambda item: -item[1])


def _run_often(python: Path, code: str, tries: int) -> Took:
    _run(python, code)  # whatever has to be compiled or read from disk
    seconds, cpu = [], []
    for _ in range(tries):
        began, used = time.perf_counter(), _children_seconds()
        _run(python, code)
        seconds.append(time.perf_counter() - began)
        cpu.append(_children_seconds() - used)
    return Took(median(seconds), median(cpu))


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run(python: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [python, *options, "-c", code],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_SECONDS,
    )
    if result.returncode != 0:
        raise DevError(f"python -c {code!r} failed", log=result.stderr.splitlines()[-25:])
    return result
