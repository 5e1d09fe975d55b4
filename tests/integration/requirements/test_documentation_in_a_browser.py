"""`/docs` in a real browser: its policy lets the page draw itself, and it asks this server alone (row 10)."""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

import httpx

from hack.dev.ports import HOST
from tests.support.browser import OFFLINE, find_browser
from tests.support.service_processes import API, ServiceProcess

DRAW_MILLISECONDS = 60_000  # of the page's own clock, which does not wait where nothing is left to do


def test_a_browser_draws_every_operation_and_refuses_nothing(tmp_path: Path) -> None:
    browser = find_browser()
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
