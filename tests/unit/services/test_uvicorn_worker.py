"""How gunicorn's workers are set up."""

from __future__ import annotations

import os
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


def test_the_setting_alone_says_how_many_processes_there_are() -> None:
    """The chart's connection budget counts by it: a variable that a platform sets for gunicorn must not go past that."""
    program = "from gunicorn.app.wsgiapp import WSGIApplication; print(WSGIApplication().cfg.workers)"
    result = subprocess.run(
        [sys.executable, "-c", program, "-c", "services/api/gunicorn.conf.py", "services.api.main:app"],
        cwd=REPOSITORY,
        env={**os.environ, "WEB_CONCURRENCY": "7", "API__WORKERS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["2"], result.stderr
