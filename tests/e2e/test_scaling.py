"""The autoscaler: more API pods under load, fewer after it. The load is bounded in requests and in time."""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from tests.e2e.system import PASSWORD, until

pytestmark = pytest.mark.e2e

CALLERS = 2
MOST_REQUESTS = 3_000
MOST_SECONDS = 180


class Load:
    """Callers that sign in, the request that costs most, until told to stop or the bound is reached."""

    def __init__(self, url: str, username: str) -> None:
        self.requests = 0
        self.failures: list[str] = []
        self._url, self._username = url, username
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        until_time = time.monotonic() + MOST_SECONDS
        form = {"username": self._username, "password": PASSWORD}
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._end.is_set() and time.monotonic() < until_time and self.requests < MOST_REQUESTS:
                try:
                    answer = client.post("/auth/login", data=form)
                    if answer.status_code != 200:
                        self.failures.append(f"{answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self.requests += 1


def test_load_brings_more_api_pods_and_its_end_fewer(system, user):
    name = f"{system.fullname}-api"
    scaler = system.get("hpa", name)
    least = scaler["spec"]["minReplicas"]
    until(lambda: len(system.ready_pods("api")) == least, 180, f"{least} API pods at rest")
    until(lambda: system.get("hpa", name)["status"].get("currentMetrics"), 120, "the autoscaler has measured")

    with Load(str(user.client.base_url), user.username) as load:
        until(
            lambda: len(system.ready_pods("api")) > least, MOST_SECONDS, "a further API pod is ready", pause=1
        )
    assert load.requests > 10
    assert not load.failures, load.failures[:5]

    until(lambda: len(system.pods("api")) == least, 300, f"back to {least} API pods", pause=2)
    # a new pod is one more from the beginning, and none was restarted
    assert set(system.restarts("api").values()) == {0}
