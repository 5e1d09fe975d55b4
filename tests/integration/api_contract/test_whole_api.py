"""Every operation of the API against its own OpenAPI: schemathesis with all its checks, as users and as an administrator.

`make test` runs a few examples of each operation, `make fuzz` many (`FUZZ_EXAMPLES`). Both are repeatable: the examples
are derived from the OpenAPI document, not from chance.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.integration.api_contract.campaign import run_schemathesis, serve

MAX_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.mark.slow
@pytest.mark.parametrize("phases", ["examples,coverage", "fuzzing,stateful"])
@pytest.mark.parametrize("role", ["user", "admin"])
def test_every_operation_keeps_to_its_description(
    role: str, phases: str, tmp_path: Path, database_environment: dict[str, str], redis_url: str
) -> None:
    users = ["ada", "grace"] if role == "user" else ["root_admin"]
    with serve(tmp_path, database=database_environment, redis_url=redis_url) as api:
        for user in users:
            api.register(user, role=role)
        paths = httpx.get(f"{api.url}/openapi.json", timeout=60).json()["paths"]
        report, output = run_schemathesis(
            api, tmp_path / "campaign", users=users, phases=phases, max_examples=MAX_EXAMPLES
        )
        defects = api.defects()
    count = sum(len(METHODS & set(operations)) for operations in paths.values())
    assert report["failures"] == report["errors"] == [], output
    assert report["exit_code"] == 0, output
    assert report["operations"]["tested"] == report["operations"]["total"] == count, output
    assert all(phase["status"] == "success" for phase in _run(report)), output
    assert defects == []


def _run(report: dict) -> list[dict]:
    return [phase for phase in report["phases"].values() if phase["skip_reason"] is None]
