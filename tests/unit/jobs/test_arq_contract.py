"""What `DurableWorker` relies on in arq 0.28. A new arq that breaks one of these is found here and not in production."""

from __future__ import annotations

import asyncio
import inspect
import signal
from importlib.metadata import version
from typing import Any

from arq.connections import ArqRedis
from arq.worker import Function, Worker, func, get_kwargs
from scalable_fastapi_system.jobs.durable import ENTRY, DurableWorker, run_claim


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("arq") == "0.28.0"


def test_the_constructor_takes_what_we_give_it() -> None:
    parameters = inspect.signature(Worker.__init__).parameters
    for name in (
        "functions", "queue_name", "redis_pool", "max_jobs", "job_completion_wait", "health_check_key",
        "health_check_interval", "keep_result", "log_results", "handle_signals", "job_serializer", "job_deserializer",
        "poll_delay", "on_startup", "on_shutdown", "burst",
    ):  # fmt: skip
        assert name in parameters


def test_every_overridden_method_exists_with_the_same_shape() -> None:
    for name, is_async in (
        ("main", True),
        ("close", True),
        ("_poll_iteration", True),
        ("start_jobs", True),
        ("handle_sig", False),
        ("handle_sig_wait_for_completion", False),
        ("_wait_for_tasks_to_complete", True),
        ("_sleep_until_tasks_complete", True),
    ):
        original, ours = getattr(Worker, name), getattr(DurableWorker, name)
        assert inspect.iscoroutinefunction(original) is is_async
        assert list(inspect.signature(original).parameters) == list(inspect.signature(ours).parameters)


async def test_the_state_that_we_share_with_arq_is_there() -> None:
    worker = Worker([func(run_claim, name=ENTRY)], handle_signals=False, max_jobs=7)
    assert isinstance(worker.functions[ENTRY], Function)
    assert worker.functions[ENTRY].coroutine is run_claim
    assert (worker.max_jobs, worker.job_counter, worker.allow_pick_jobs, worker.tasks) == (7, 0, True, {})
    assert worker.main_task is None
    assert worker._pool is None
    assert worker.loop is asyncio.get_running_loop()
    assert isinstance(worker.ctx, dict)


async def test_a_signal_stops_picking_and_waits_in_our_method() -> None:
    waited: list[Any] = []

    class Probe(Worker):
        async def _wait_for_tasks_to_complete(self, signum: Any) -> None:
            waited.append(signum)

    worker = Probe([func(run_claim, name=ENTRY)], handle_signals=False, job_completion_wait=3)
    worker.handle_sig_wait_for_completion(signal.SIGTERM)
    assert worker.allow_pick_jobs is False
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waited == [signal.SIGTERM]


def test_settings_classes_are_read_by_name() -> None:
    assert get_kwargs({"poll_delay": 0, "queue_read_limit": 9, "unknown": 1}) == {
        "poll_delay": 0,
        "queue_read_limit": 9,
    }


def test_the_client_is_made_from_a_url_and_keeps_its_class() -> None:
    client = ArqRedis.from_url("redis://:secret@127.0.0.1:1/3", db=0)
    assert isinstance(client, ArqRedis)
    assert client.connection_pool.connection_kwargs["db"] == 3
    assert client.connection_pool.connection_kwargs["password"] == "secret"
