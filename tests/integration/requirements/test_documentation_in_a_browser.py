"""`/docs` in a real browser: its policy lets the page draw itself, and it asks this server alone (row 10)."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from hack.dev.ports import HOST
from tests.support.service_processes import API, ServiceProcess

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OFFLINE = (
    "--headless",
    "--no-sandbox",  # root has no other way; the only page that it opens is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
)
DRAW_MILLISECONDS = 60_000  # of the page's own clock, which does not wait where nothing is left to do


def test_a_browser_draws_every_operation_and_refuses_nothing(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if browser is None:
        pytest.skip("no Chromium here (hack/ci/debian-packages installs it)")
    service = ServiceProcess("api", API, tmp_path, {})
    service.start()
    try:
        url = f"http://{HOST}:{service.port}"
        paths = httpx.get(f"{url}/openapi.json", timeout=60).json()["paths"]
        page = subprocess.run(
            [
                browser,
                *OFFLINE,
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--virtual-time-budget={DRAW_MILLISECONDS}",
                "--enable-logging=stderr",
                "--dump-dom",
                f"{url}/docs",
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    finally:
        service.kill()
    drawn = re.findall(r'class="opblock-summary-path[^"]*"[^>]*data-path="([^"]+)"', page.stdout)
    assert {html.unescape(path) for path in drawn} == set(paths)
    said = [line for line in page.stderr.splitlines() if "CONSOLE" in line]
    assert said == []
