"""A generated domain is green from its first minute: lint, types, import rules, migration, tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hack.dev.layout import REPOSITORY
from hack.dev.new_domain import DomainWriter, checked
from tests.support.databases import environment_of

DOMAINS = Path("packages") / "domains" / "src"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository."""
    for name in ("packages", "tests", "hack", "services"):
        shutil.copytree(
            REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name in ("pyproject.toml", ".importlinter"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def run(checkout: Path, *command: str, **environment: str) -> str:
    """The output of a program in the copy, on the copy's own packages."""
    library = checkout / "packages" / "scalable_fastapi_system" / "src"
    # Not this run's stores, or the run in the copy would end them.
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SFS_", "PYTEST_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=checkout,
        env={**inherited, "PYTHONPATH": f"{checkout / DOMAINS}:{library}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_new_domain_passes_every_check_and_its_own_tests(
    checkout: Path, empty_database_section: dict[str, Any]
) -> None:
    written = [str(path) for path in DomainWriter(checkout, checked("purchase_orders", "")).write()]
    run(checkout, "ruff", "check", *written)
    run(checkout, "ruff", "format", "--check", *written)
    run(checkout, "mypy", "--strict", str(DOMAINS))
    run(checkout, "importlinter.cli", "lint")
    for command in (["migrate"], ["migrate", "--check"]):
        run(
            checkout,
            "services.manage",
            *command,
            **environment_of(empty_database_section),
            ENVIRONMENT="test",
        )
    test = "tests/integration/domains/test_purchase_orders.py"
    # On SQLite, which needs no other server beside those of this run.
    assert "9 passed" in run(checkout, "pytest", "-q", "-p", "no:cacheprovider", "--database", "sqlite", test)
