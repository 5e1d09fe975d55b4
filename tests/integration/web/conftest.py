"""The API as a process of its own, on a temporary database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.service_processes import API, ServiceProcess

StartAPI = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def start_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartAPI]:
    """Starts the API with these variables, without a rate limit unless they give one."""
    folder = tmp_path_factory.mktemp("api")
    started: list[ServiceProcess] = []

    def start(**environment: str) -> ServiceProcess:
        service = ServiceProcess("api", API, folder, {"RATE_LIMIT__ENABLED": "false", **environment})
        started.append(service)
        service.start()
        return service

    yield start
    for service in started:
        service.kill()
