"""What the Makefile hands on to the programs it runs."""

from __future__ import annotations

import subprocess

import pytest
from scalable_fastapi_system.infra.settings import Settings

from hack.dev.layout import REPOSITORY


@pytest.mark.parametrize(
    "variable", ["DATABASE", "MESSAGE", "WORKERS", "PORT", "EXAMPLES", "BREAKING", "PYTHON"]
)
def test_a_variable_of_make_is_no_setting_of_ours(variable: str) -> None:
    """`make test DATABASE=sqlite` had every process read the settings' section `database` from it, and fail."""
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval=probe: ; @env", "probe", f"{variable}=some"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = {line.partition("=")[0].lower() for line in done.stdout.splitlines()}
    assert not seen & set(Settings.model_fields)
