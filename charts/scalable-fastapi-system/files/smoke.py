# noqa: INP001 - a script that a pod mounts, not a module of a package
"""What `helm test` runs in the cluster: `api`, `worker` or `job`, with nothing but the standard library.

Ends with status 0 when the installation does what it should, else with a message and status 1. The job test signs in as
a user of its own, made by the first run. Name and password come from the signing secret, so that only this installation
can derive them, and a new secret means a new user. That user and the records of its jobs are all it leaves behind.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

API_URL = os.environ["API_URL"]
# where SECURITY__ALLOWED_HOSTS has not the name in that URL
API_HOST_HEADER = os.environ.get("API_HOST_HEADER")
WORKER_URL = os.environ["WORKER_URL"]
JOB_TIMEOUT_SECONDS = float(os.environ["JOB_TIMEOUT_SECONDS"])
TABLE = b"city,population\nBern,134794\nZug,31345\nChur,38293\n"
BOUNDARY = "helm-test-boundary"


class SmokeError(Exception):
    """The installation does not do what it should."""


def call(
    method: str,
    url: str,
    *,
    token: str = "",
    body: bytes | None = None,
    content_type: str = "application/json",
) -> tuple[int, str]:
    """Status and body of an answer; an answer with an error status is an answer, too."""
    headers = {"Content-Type": content_type} if body is not None else {}
    if API_HOST_HEADER and url.startswith(API_URL):
        headers["Host"] = API_HOST_HEADER
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - our own services
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def expect(method: str, url: str, status: int, **options: Any) -> str:
    """The body of an answer that must have this status."""
    found, body = call(method, url, **options)
    if found != status:
        raise SmokeError(f"{method} {url}: {found} in place of {status}: {body[:500]}")
    return body


def expect_data(method: str, url: str, status: int, **options: Any) -> Any:
    """`data` of an envelope."""
    return json.loads(expect(method, url, status, **options))["data"]


def check_health(url: str, metric: str) -> None:
    for path in ("/health/live", "/health/ready"):
        expect("GET", url + path, 200)
    report = json.loads(expect("GET", url + "/health", 200))
    if report["status"] != "healthy":
        raise SmokeError(f"{url}/health says {json.dumps(report)}")
    if metric not in expect("GET", url + "/metrics", 200):
        raise SmokeError(f"{url}/metrics has no {metric}")


def check_api() -> None:
    root = json.loads(expect("GET", API_URL + "/", 200))
    if root["success"] is not True:
        raise SmokeError(f"GET / says {root}")
    check_health(API_URL, "http_requests_total")


def check_worker() -> None:
    check_health(WORKER_URL, "jobs_")


def derive(what: str) -> str:
    """Something that whoever has the signing secret can say again, and nobody else."""
    return hmac.new(os.environ["SECURITY__SECRET_KEY"].encode(), what.encode(), hashlib.sha256).hexdigest()


def make_user(username: str, password: str) -> None:
    """Registers the test's user; where that is closed to all, the operators' command line makes it in the database."""
    email = f"{username}@example.com"
    user = {"username": username, "email": email, "password": password}
    status, body = call("POST", API_URL + "/auth/register", body=json.dumps(user).encode())
    if status == 200:
        return
    if status != 403:
        raise SmokeError(f"register: {status}: {body[:500]}")
    sys.stdout.write("registration is closed here: the command line makes the test's user\n")
    command = [sys.executable, "-m", "services.manage", "user", "create", username, email]
    done = subprocess.run(  # noqa: S603 - our own command
        command, input=password + "\n", capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise SmokeError(f"user create: exit code {done.returncode}: {done.stderr[-500:]}")


def sign_in() -> str:
    """A token of the test's user, who is made on the first run."""
    username, password = f"helm_test_{derive('helm test user')[:10]}", derive("helm test")
    form = urllib.parse.urlencode({"username": username, "password": password}).encode()

    def login() -> tuple[int, str]:
        return call(
            "POST", API_URL + "/auth/login", body=form, content_type="application/x-www-form-urlencoded"
        )

    status, body = login()
    if status == 401:
        make_user(username, password)
        status, body = login()
    if status != 200:
        raise SmokeError(f"login: {status}: {body[:500]}")
    return str(json.loads(body)["data"]["access_token"])


def wait_for(task_id: str, token: str) -> None:
    """Until the job has succeeded. Raises SmokeError where it ends otherwise or takes too long."""
    deadline = time.monotonic() + JOB_TIMEOUT_SECONDS
    while True:
        task = expect_data("GET", f"{API_URL}/tasks/{task_id}", 200, token=token)
        if task["status"] == "succeeded":
            return
        if task["status"] in ("failed", "cancelled", "quarantined"):
            raise SmokeError(f"the job ended as {task['status']}: {json.dumps(task)[:1000]}")
        if time.monotonic() > deadline:
            raise SmokeError(
                f"the job is {task['status']} after {JOB_TIMEOUT_SECONDS:.0f} s: is a worker running?"
            )
        time.sleep(0.5)


def check_plain_job(token: str) -> None:
    """For a product that no longer has the example domain: a job of the platform's own."""
    data = json.dumps({"city": "Bern", "population": 134794}).encode()
    accepted = expect_data("POST", API_URL + "/process-data", 202, token=token, body=data)
    wait_for(accepted["task_id"], token)


def check_job() -> None:
    """A table from upload to profile: API, storage, queue and worker have their part in it."""
    token = sign_in()
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="cities.csv"\r\n'
        "Content-Type: text/csv\r\n\r\n"
    )
    upload = head.encode() + TABLE + f"\r\n--{BOUNDARY}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    status, body = call("POST", API_URL + "/datasets", token=token, body=upload, content_type=content_type)
    if status == 404:
        check_plain_job(token)
        return
    if status != 202:
        raise SmokeError(f"upload: {status}: {body[:500]}")
    accepted = json.loads(body)["data"]
    dataset_url = f"{API_URL}/datasets/{accepted['id']}"
    try:
        wait_for(accepted["task_id"], token)
        profile = expect_data("GET", dataset_url, 200, token=token)["profile"]
        if profile["rows"] != 3 or len(profile["columns"]) != 2:
            raise SmokeError(f"a table of 3 rows and 2 columns was profiled as {json.dumps(profile)[:1000]}")
    finally:
        call("DELETE", dataset_url, token=token)


if __name__ == "__main__":
    try:
        {"api": check_api, "worker": check_worker, "job": check_job}[sys.argv[1]]()
    except (SmokeError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    sys.stdout.write(f"{sys.argv[1]}: ok\n")
