"""The counts of `count.py`, taken once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.dev.postgres import Postgres
from hack.dev.redis_server import Redis

_REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def counted(postgres_server: Postgres, redis_server: Redis) -> Iterator[dict[str, dict[str, Any]]]:
    """What each kind of request costs, by its name; see `count.py`."""
    name = f"hot_path_{uuid.uuid4().hex[:12]}"
    redis_server.flush()
    url = postgres_server.create_database(name)
    result = subprocess.run(
        [sys.executable, "-m", "tests.integration.hot_path.count", url, redis_server.url()],
        cwd=_REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-1000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("COUNTED "))
    yield json.loads(line.removeprefix("COUNTED "))
    postgres_server.drop_database(name)
