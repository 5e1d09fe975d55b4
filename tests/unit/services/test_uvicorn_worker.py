"""How gunicorn's workers are set up."""

from __future__ import annotations

import subprocess
import sys

from hack.dev.layout import REPOSITORY

PROGRAM = """
import sys
from services.api.uvicorn_worker import ServiceWorker
from uvicorn import Config
before = set(sys.modules)
assert not {"fastapi", "starlette", "sqlalchemy", "prometheus_client"} & before, "the master imports too much"
config = Config(lambda: None, **ServiceWorker.CONFIG_KWARGS)
config.load()
from scalable_fastapi_system.web.http_protocol import GuardedHttpProtocol
assert issubclass(config.http_protocol_class, GuardedHttpProtocol)
"""


def test_gunicorns_own_process_does_without_the_framework_and_the_worker_gets_the_guarded_protocol() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
