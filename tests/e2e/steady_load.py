"""A steady load on the API, run inside a pod: `python steady_load.py HOST PORT TOKEN`. Needs the standard library alone.

Callers of one kind keep their connection for as long as the server lets them, callers of the other open one for each
request. Nothing is tried twice: a refused or broken connection is a failed request, on a kept-alive one as well. Each
second prints a line with the counts so far; once /tmp/stop exists the last line tells what failed, and those before it the
tasks that were accepted, a few in a line: a container's log is cut into lines of 16 KiB.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path

CALLERS = 10
REQUESTS_A_SECOND = 10.0  # of one caller: 200 a second of all of both kinds, where the machine can
CREATE_EVERY = 50
TIMEOUT_SECONDS = 60
TASKS_A_LINE = 200
STOP = Path("/tmp/stop")
HOST, PORT, TOKEN = sys.argv[1], int(sys.argv[2]), sys.argv[3]

lock = threading.Lock()
counts = {"kept": 0, "fresh": 0, "failed": 0, "connections": 0}
failures: list[dict[str, object]] = []
tasks: list[str] = []
began = time.monotonic()


class Counted(http.client.HTTPConnection):
    """Counts the connections that were opened."""

    def connect(self) -> None:
        super().connect()
        with lock:
            counts["connections"] += 1


def request(connection: http.client.HTTPConnection, number: int) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    if number % CREATE_EVERY == 0:
        body = json.dumps({"numbers": [number, 1]})
        headers["Content-Type"] = "application/json"
        method, path, wanted = "POST", "/tasks/background", 202
    else:
        method, path, wanted, body = "GET", ("/", "/users/me", "/datasets")[number % 3], 200, None
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != wanted:
        raise ValueError(f"{method} {path}: {answer.status} {content[:200]!r}")
    if wanted == 202:
        task = json.loads(content)["data"]["task_id"]
        with lock:
            tasks.append(task)


def call(kind: str, caller: int) -> None:
    connection = Counted(HOST, PORT, timeout=TIMEOUT_SECONDS)
    number, on_this_connection = caller, 0
    due = answered = time.monotonic() + caller / CALLERS / REQUESTS_A_SECOND
    while not STOP.exists():
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / REQUESTS_A_SECOND, time.monotonic())
        number += 1
        if kind == "fresh":
            connection.close()
        if connection.sock is None:
            on_this_connection = 0
        on_this_connection += 1
        idle_seconds = time.monotonic() - answered
        try:
            request(connection, number)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            with lock:
                counts["failed"] += 1
                failures.append(
                    {
                        "kind": kind,
                        "error": repr(error),
                        "second": round(time.monotonic() - began, 1),
                        "request_of_its_connection": on_this_connection,
                        "idle_seconds": round(idle_seconds, 2),
                    }
                )
        answered = time.monotonic()
        with lock:
            counts[kind] += 1


def main() -> None:
    callers = [
        threading.Thread(target=call, args=(kind, number))
        for kind in ("kept", "fresh")
        for number in range(CALLERS)
    ]
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers):
        time.sleep(1)
        with lock:
            print(json.dumps(counts), flush=True)
    seconds = time.monotonic() - began
    for first in range(0, len(tasks), TASKS_A_LINE):
        print(json.dumps({"tasks": tasks[first : first + TASKS_A_LINE]}))
    print(json.dumps({**counts, "seconds": seconds, "failures": failures[:20]}), flush=True)


main()
