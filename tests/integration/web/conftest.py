"""The API as a process of its own, on a temporary database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.service_processes import ServiceProcess, started_services

StartAPI = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def start_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartAPI]:
    """Starts the API with these variables, without a rate limit unless they give one."""
    with started_services(tmp_path_factory.mktemp("api"), RATE_LIMIT__ENABLED="false") as start:
        yield partial(start, "api")
