"""The API in a process of its own, as its server runs it, and schemathesis' command line against it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.processes import Child, wait_until

HERE = Path(__file__).parent
PASSWORD = "correct-horse-battery"
START_TIMEOUT_SECONDS = 120.0
CAMPAIGN_TIMEOUT_SECONDS = 3600.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Api:
    """A running API: its address, its process, the file that its log goes to."""

    url: str
    child: Child
    environment: dict[str, str]

    def register(self, username: str, *, role: str = "user") -> None:
        """Makes a user; an administrator is appointed by the operators' command line."""
        body = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
        httpx.post(f"{self.url}/auth/register", json=body, timeout=60).raise_for_status()
        if role != "user":
            command = [sys.executable, "-m", "services.manage", "user", "set-role", username, role]
            subprocess.run(command, cwd=REPOSITORY, env=self.environment, check=True, capture_output=True)

    def defects(self) -> list[str]:
        """The lines of its log that tell of a defect."""
        lines = self.child.log_path.read_text().splitlines()
        return [line for line in lines if '"level":"error"' in line or '"level":"critical"' in line]


@contextmanager
def serve(folder: Path, *, database: dict[str, str], redis_url: str) -> Iterator[Api]:
    """The product's API with the job engine in it, on the database of these variables. No quota is kept: a campaign is meant to be too much."""
    port = find_free()
    environment = {
        **{name: value for name, value in os.environ.items() if "__" not in name},
        "ENVIRONMENT": "test",
        **database,
        "REDIS__REDIS_URL": redis_url,
        "JOBS__MODE": "embedded",
        "LOGGING__FORMAT": "json",
        "LOGGING__ACCESS_LOG": "false",
        "RATE_LIMIT__ENABLED": "false",
        "SECURITY__BCRYPT_ROUNDS": "4",
        "SECURITY__LOGIN_ATTEMPTS_PER_MINUTE": "1000000",
    }
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "services.api.main:app",
        "--port",
        str(port),
        "--no-access-log",
    ]
    child = Child("the API", command, log_path=folder / "api.log", cwd=REPOSITORY, environment=environment)
    child.start()
    api = Api(f"http://127.0.0.1:{port}", child, environment)
    try:
        is_up = wait_until(lambda: _is_ready(api), timeout_seconds=START_TIMEOUT_SECONDS)
        assert is_up, "the API did not start:\n" + "\n".join(child.log_tail())
        yield api
    finally:
        child.stop(grace_seconds=60)


def run_schemathesis(
    api: Api, folder: Path, *, users: Sequence[str], phases: str, max_examples: int
) -> tuple[dict[str, Any], str]:
    """One campaign as these users, over every operation; its report and what it printed.

    With several users, what one made is asked for by the others, who must not get it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "users.json").write_text(json.dumps({"auth": [_sign_in(name) for name in users]}))
    config = (HERE / "schemathesis.toml").read_text()
    if len(users) > 1:
        config += f"peers = {json.dumps(list(users))}\n"
    (folder / "schemathesis.toml").write_text(config)
    command: list[str] = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
        *("run", f"{api.url}/openapi.json", "--phases", phases, "--max-examples", str(max_examples)),
        *("--report", "json", "--report-json-path", "report.json"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=CAMPAIGN_TIMEOUT_SECONDS,
    )
    output = _COLOURS.sub("", result.stdout + result.stderr)
    report_path = folder / "report.json"
    assert report_path.exists(), output
    return json.loads(report_path.read_text()), output


def _is_ready(api: Api) -> bool:
    assert api.child.is_running, "the API ended:\n" + "\n".join(api.child.log_tail())
    try:
        return httpx.get(f"{api.url}/health/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _sign_in(username: str) -> dict[str, Any]:
    """How schemathesis signs a user in, in the words of Web Fuzzing Commons."""
    return {
        "name": username,
        "loginEndpointAuth": {
            "endpoint": "/auth/login",
            "verb": "POST",
            "contentType": "application/json",
            "payloadRaw": json.dumps({"username": username, "password": PASSWORD}),
            "token": {
                "extractFrom": "body",
                "extractSelector": "/access_token",
                "sendIn": "header",
                "sendName": "Authorization",
                "sendTemplate": "Bearer {token}",
            },
        },
    }
