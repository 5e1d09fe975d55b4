"""`.ci/run`, with stand-ins for what it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hack.dev.layout import REPOSITORY

MAKEFILE = """
setup check test e2e:
\t@test -z "$$(cat)" && echo "$@ with CI=$$CI"
\t@case " $$FAILING " in *" $@ "*) echo "the reason"; exit 3;; esac
\t@echo "1 passed in 0.01s"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "hack" / "ci").mkdir(parents=True)
    for phase, name in (("packages", "debian-packages"), ("tools", "tools")):
        # A stand-in: nothing is to be installed here.
        script = tmp_path / "hack" / "ci" / name
        script.write_text(f'#!/bin/sh\necho "{phase} with CI=$CI"\necho "1 passed in 0.01s"\n')
        script.chmod(0o755)
    return tmp_path


def pipeline(checkout: Path, *, failing: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / ".ci" / "run"],
        cwd="/",
        env={**os.environ, "FAILING": failing},
        input="never read",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_runs_every_phase_without_input_and_sums_up(checkout: Path) -> None:
    result = pipeline(checkout)
    assert result.returncode == 0, result.stdout
    is_root = os.geteuid() == 0
    packages = ["packages"] if is_root and shutil.which("apt-get") else []
    phases = ["setup", "check", *packages, "tools", "test", *(["e2e"] if is_root else [])]
    for phase in phases:
        assert f"{phase} with CI=true" in result.stdout
    summary = result.stdout.partition("=== summary")[2]
    assert [line.split()[0] for line in summary.splitlines() if " s  " in line] == phases
    assert summary.count("1 passed in 0.01s") == len(phases)


def test_one_failure_fails_it_and_the_other_phases_still_run(checkout: Path) -> None:
    result = pipeline(checkout, failing="check")
    assert result.returncode == 1
    assert "test with CI=true" in result.stdout
    summary = result.stdout.partition("=== summary")[2]
    assert "FAILED with code 2" in summary
    assert "| the reason" in summary
