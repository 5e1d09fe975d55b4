"""The script of `helm test` against a real API: with another signing secret, and where nobody may register."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hack.dev.layout import REPOSITORY
from tests.support.service_processes import ServiceProcess, started_services

SMOKE = REPOSITORY / "charts" / "scalable-fastapi-system" / "files" / "smoke.py"


@pytest.fixture
def told(database_environment: dict[str, str], redis_url: str) -> dict[str, str]:
    """What the chart tells every pod, the test's among them."""
    return {**database_environment, "REDIS__REDIS_URL": redis_url, "STORAGE__URL": "database://"}


@pytest.fixture
def start_api(tmp_path: Path, told: dict[str, str]) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts an API on the test's database, which does its jobs itself, in the place of the one before."""
    before: list[ServiceProcess] = []
    with started_services(tmp_path, **told, JOBS__MODE="embedded") as start_service:

        def start(**settings: str) -> ServiceProcess:
            while before:
                before.pop().kill()
            before.append(start_service("api", **settings))
            return before[0]

        yield start


@pytest.fixture
def run_smoke(told: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The job test, as its pod runs it: in the image's folder, with the environment that the chart gives."""

    def run(api: ServiceProcess, key: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **told,
            "ENVIRONMENT": "test",
            "SECURITY__SECRET_KEY": key,
            "SECURITY__BCRYPT_ROUNDS": "4",
            "API_URL": api.url,
            "WORKER_URL": api.url,
            "JOB_TIMEOUT_SECONDS": "90",
            **more,
        }
        return subprocess.run(
            [sys.executable, str(SMOKE), "job"],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_passes_again_and_again_and_after_a_rotation_of_the_signing_secret(start_api, run_smoke):
    for key in (secrets.token_hex(32), secrets.token_hex(32)):
        api = start_api(SECURITY__SECRET_KEY=key)
        for _ in range(2):
            done = run_smoke(api, key)
            assert done.returncode == 0, done.stderr
            assert done.stdout == "job: ok\n"


def test_it_passes_where_nobody_may_register_and_says_what_it_does(start_api, run_smoke):
    key = secrets.token_hex(32)
    api = start_api(SECURITY__SECRET_KEY=key, SECURITY__REGISTRATION_ENABLED="false")
    first, second = run_smoke(api, key), run_smoke(api, key)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "registration is closed" in first.stdout
    assert second.stdout == "job: ok\n"


def test_it_passes_where_the_api_does_not_take_the_name_of_its_service(start_api, run_smoke):
    key = secrets.token_hex(32)
    api = start_api(SECURITY__SECRET_KEY=key, SECURITY__ALLOWED_HOSTS="*.example.com")
    done = run_smoke(api, key, API_HOST_HEADER="helm-test.example.com")
    assert (done.returncode, done.stdout) == (0, "job: ok\n"), done.stderr


def test_a_fault_is_one_still(start_api, run_smoke):
    key = secrets.token_hex(32)
    api = start_api(SECURITY__SECRET_KEY=key)
    api.kill()
    done = run_smoke(api, key)
    assert done.returncode == 1
    assert done.stderr.startswith("job: ")


def test_a_product_without_the_example_domain_is_tested_by_a_job_of_the_platform(
    start_api, run_smoke, tmp_path
):
    product = tmp_path / "product" / "domains"
    product.mkdir(parents=True)
    (product / "__init__.py").touch()
    (product / "registry.py").write_text(
        "from scalable_fastapi_system.kit.domain import Product\n\nPRODUCT = Product()\n"
    )
    key = secrets.token_hex(32)
    api = start_api(SECURITY__SECRET_KEY=key, PYTHONPATH=str(product.parent))
    assert api.status("/datasets") == 404
    done = run_smoke(api, key)
    assert (done.returncode, done.stdout) == (0, "job: ok\n"), done.stderr
