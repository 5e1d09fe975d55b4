"""What a service tells about itself: sampled, complete, and right about Redis and readiness."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from scalable_fastapi_system.infra.database.manager import PoolUsage
from scalable_fastapi_system.infra.health import STATES, Readiness
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.infra.observation import ServiceObserver
from scalable_fastapi_system.infra.redis import RedisAwayError


class FakeRedis:
    def __init__(self, memory: Any = None) -> None:
        self.is_configured = True
        self.is_away = False
        self.memory = memory

    async def call(self, operation):
        if self.memory is None:
            raise RedisAwayError("away")
        return await operation(SimpleNamespace(info=self.info))

    async def info(self, section):
        assert section == "memory"
        if isinstance(self.memory, Exception):
            raise self.memory
        return self.memory


class FakeReadiness:
    def __init__(self) -> None:
        self.state = "ready"
        self.asked = 0

    async def reason_not_ready(self) -> str | None:
        self.asked += 1
        return None


class Broken(FakeReadiness):
    async def reason_not_ready(self) -> str | None:
        self.asked += 1
        raise RuntimeError("broken")


def service(redis: FakeRedis, *, is_listening: bool = True, pools: tuple[PoolUsage, ...] = ()) -> Any:
    return SimpleNamespace(
        settings=SimpleNamespace(api=SimpleNamespace(version="1.2.3")),
        database=SimpleNamespace(pool_usage=lambda: list(pools)),
        cache=SimpleNamespace(redis=redis, is_listening=is_listening),
    )


def observer(resources: Any, readiness: Any = None, **options: Any) -> ServiceObserver:
    return ServiceObserver(resources, component="api", readiness=readiness or FakeReadiness(), **options)


async def test_pools_show_what_is_at_work_idle_and_allowed():
    pools = (PoolUsage("sessions", in_use=3, idle=2, limit=10),)
    await observer(service(FakeRedis({}), pools=pools)).sample()
    value = REGISTRY.get_sample_value
    assert value("db_pool_connections", {"pool": "sessions", "state": "in_use"}) == 3
    assert value("db_pool_connections", {"pool": "sessions", "state": "idle"}) == 2
    assert value("db_pool_max_connections", {"pool": "sessions"}) == 10


@pytest.mark.parametrize("state", STATES)
async def test_exactly_one_state_of_readiness_is_shown(state):
    readiness = FakeReadiness()
    readiness.state = state
    await observer(service(FakeRedis({})), readiness).sample()
    shown = {one: REGISTRY.get_sample_value("service_readiness", {"state": one}) for one in STATES}
    assert shown == {one: float(one == state) for one in STATES}


@pytest.mark.parametrize(
    ("redis", "is_listening", "expected"),
    [
        (FakeRedis({"used_memory": 5, "maxmemory": 9}), True, 1),
        (FakeRedis({"used_memory": 5, "maxmemory": 9}), False, 0),
        (FakeRedis(None), True, 0),
    ],
)
async def test_redis_is_up_while_it_answers_and_its_changes_are_heard(redis, is_listening, expected):
    await observer(service(redis, is_listening=is_listening)).sample()
    assert REGISTRY.get_sample_value("redis_up") == expected


PROCESS = """
import asyncio
import sys
from types import SimpleNamespace
from scalable_fastapi_system.infra.observation import ServiceObserver, started

async def look(redis):
    async def is_ready(): pass
    resources = SimpleNamespace(
        database=SimpleNamespace(pool_usage=lambda: []), cache=SimpleNamespace(redis=redis, is_listening=True)
    )
    readiness = SimpleNamespace(reason_not_ready=is_ready, state="ready")
    await ServiceObserver(resources, component="api", readiness=readiness).sample()

async def memory(_operation):
    return {"used_memory": 1, "maxmemory": 2}

redis = SimpleNamespace(is_configured=sys.argv[1] == "redis", is_away=False, call=memory)
if sys.argv[2] != "boots":
    started.set(float(sys.argv[2]))
    asyncio.run(look(redis))
"""


def of_processes(folder: Path, *processes: tuple[str, str], dead: int = 0) -> dict[str, float]:
    """What a pod shows whose processes, one after the other, have Redis or none and began then, or boot yet."""
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    pids = []
    for arguments in processes:
        process = subprocess.Popen([sys.executable, "-c", PROCESS, *arguments], env=environment)
        assert process.wait() == 0
        pids.append(process.pid)
    for pid in pids[len(pids) - dead :]:
        mark_process_dead(pid, str(folder))
    families = MultiProcessCollector(CollectorRegistry(), str(folder)).collect()
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_where_no_redis_is_configured_nothing_is_told_of_it(tmp_path):
    shown = of_processes(tmp_path, ("none", "100"))
    assert "service_start_time_seconds" in shown
    assert not [name for name in shown if name.startswith("redis_") and name != "redis_failures_total"]


def test_a_process_that_boots_takes_nothing_from_what_those_beside_it_tell(tmp_path):
    shown = of_processes(tmp_path, ("redis", "100"), ("redis", "boots"))
    assert (shown["redis_up"], shown["service_start_time_seconds"]) == (1, 100)
    assert (shown["redis_memory_used_bytes"], shown["redis_memory_max_bytes"]) == (1, 2)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_pod_tells_when_the_last_of_its_processes_began_also_after_that_one_has_gone(tmp_path, dead):
    shown = of_processes(tmp_path, ("redis", "100"), ("redis", "200"), dead=dead)
    assert shown["service_start_time_seconds"] == 200


async def test_the_memory_of_redis_is_shown():
    await observer(service(FakeRedis({"used_memory": 512, "maxmemory": 1024}))).sample()
    assert REGISTRY.get_sample_value("redis_memory_used_bytes") == 512
    assert REGISTRY.get_sample_value("redis_memory_max_bytes") == 1024


async def test_a_redis_that_keeps_its_figures_to_itself_is_up_all_the_same():
    from redis.exceptions import NoPermissionError

    await observer(service(FakeRedis(NoPermissionError("no INFO for you")))).sample()
    assert REGISTRY.get_sample_value("redis_up") == 1


async def test_it_tells_at_its_start_what_runs_and_goes_on_after_a_failure(caplog):
    caplog.set_level(logging.CRITICAL)
    readiness = Broken()
    one = observer(service(FakeRedis({})), readiness, interval_seconds=0.001)
    one.start()
    async with asyncio.timeout(5):
        while readiness.asked < 3:
            await asyncio.sleep(0.001)
    await one.stop()
    samples = [
        sample
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "service_build_info" and sample.labels["component"] == "api"
    ]
    assert [(sample.labels["version"], sample.value) for sample in samples] == [("1.2.3", 1.0)]
    assert REGISTRY.get_sample_value("service_start_time_seconds") > 1_600_000_000


async def test_a_blocked_loop_is_seen():
    import time

    one = observer(service(FakeRedis({})), interval_seconds=3600)
    one.start()
    await asyncio.sleep(0.05)
    time.sleep(0.6)  # noqa: ASYNC251 - the blocking is what is measured
    await asyncio.sleep(0.05)
    await one.sample()
    await one.stop()
    assert REGISTRY.get_sample_value("service_event_loop_lag_seconds") > 0.2


async def test_requests_at_work_are_shown():
    registry = CollectorRegistry()
    requests = MetricsManager(registry)
    requests.watch_in_progress(lambda: 7)
    one = observer(service(FakeRedis({})), requests=requests)
    one.start()
    async with asyncio.timeout(5):
        while registry.get_sample_value("http_requests_inprogress") != 7:
            await asyncio.sleep(0.01)
    await one.stop()


class FakeDatabase:
    def __init__(self) -> None:
        self.is_up = True

    async def ping(self) -> None:
        if not self.is_up:
            raise OSError("down")


async def test_readiness_knows_its_state(monkeypatch):
    database: Any = FakeDatabase()
    readiness = Readiness(database)
    schema = "behind"

    async def schema_state() -> str:
        return schema

    monkeypatch.setattr(readiness, "_schema_state", schema_state)
    assert "behind" in (await readiness.reason_not_ready(0.0) or "")
    assert readiness.state == "schema"
    schema = "current"
    assert await readiness.reason_not_ready(10.0) is None
    assert readiness.state == "ready"
    database.is_up = False
    assert await readiness.reason_not_ready(20.0) == "the database does not answer"
    assert readiness.state == "database"
    readiness.is_draining = True
    assert await readiness.reason_not_ready(30.0) == "shutting down"
    assert readiness.state == "draining"
