"""What `@job` and `enqueue` refuse: at once, where it is written, and with what to write instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import Backoff, JobContext, JobRegistry, call, job
from scalable_fastapi_system.jobs.enqueueing import new_job
from scalable_fastapi_system.jobs.errors import JobUsageError
from scalable_fastapi_system.jobs.limits import Limits
from scalable_fastapi_system.kit.errors import ValidationException


async def handler(ctx: JobContext, *, shop: int = 1, page: int = 1) -> None: ...


def declare(function: Any = handler, **options: Any) -> Any:
    return job("shop.work", registry=JobRegistry(), **options)(function)


def client() -> Any:
    return SimpleNamespace(
        limits=Limits(1000, 1000), settings=Settings(_env_file=None), find_handler=lambda kind: None
    )


@pytest.mark.parametrize("backoff", [3, 0, 2.5, timedelta(seconds=3), "3", Backoff, (2, 600)])
def test_a_back_off_is_a_backoff(backoff: Any) -> None:
    with pytest.raises(TypeError, match=r"shop\.work: backoff is a Backoff, such as Backoff\(2, 600\)"):
        declare(backoff=backoff)


@pytest.mark.parametrize("seconds", ["2", None, True, timedelta(seconds=2)])
def test_a_backoffs_times_are_numbers(seconds: Any) -> None:
    with pytest.raises(TypeError, match="base_seconds is a number of seconds"):
        Backoff(seconds)
    with pytest.raises(TypeError, match="cap_seconds is a number of seconds"):
        Backoff(1, seconds)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_backoffs_times_are_finite_and_not_below_nothing(seconds: float) -> None:
    with pytest.raises(ValueError, match="base_seconds is a number of seconds"):
        Backoff(seconds)
    with pytest.raises(ValueError, match="cap_seconds is a number of seconds"):
        Backoff(1, seconds)


def test_no_back_off_is_the_usual_one() -> None:
    assert (declare().backoff.base_seconds, declare().backoff.cap_seconds) == (2.0, 600.0)
    assert declare(backoff=Backoff(0, 0)).backoff.delay_seconds(5, lambda: 1.0) == 0


async def _yields(ctx: JobContext) -> Any:
    yield 1


def _yields_plainly(ctx: Any) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"queue": "q" * 65}, "queue is a name of 1 to 64 characters"),
        ({"queue": ""}, "queue is a name of 1 to 64 characters"),
        ({"queue": "a\0b"}, "queue is a name of 1 to 64 characters"),
        ({"queue": "\ud800"}, "queue is a name of 1 to 64 characters"),
        ({"queue": 7}, "queue is a name of 1 to 64 characters"),
        ({"queue": None}, "queue is a name of 1 to 64 characters"),
        ({"timeout_seconds": 0}, "timeout_seconds is a number of seconds above 0"),
        ({"timeout_seconds": -1}, "timeout_seconds is a number of seconds above 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds is a number of seconds above 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds is a number of seconds above 0"),
        ({"timeout_seconds": "30"}, "timeout_seconds is a number of seconds above 0"),
        ({"timeout_seconds": timedelta(seconds=30)}, "timeout_seconds is a number of seconds above 0"),
        ({"max_attempts": 0}, "max_attempts is a number from 1 to 32767"),
        ({"max_attempts": 100_000}, "max_attempts is a number from 1 to 32767"),
        ({"max_attempts": True}, "max_attempts is a number from 1 to 32767"),
        ({"max_attempts": 2.0}, "max_attempts is a number from 1 to 32767"),
        ({"max_attempts": "5"}, "max_attempts is a number from 1 to 32767"),
        ({"priority": 101}, "priority is a number from -100 to 100"),
        ({"priority": 0.5}, "priority is a number from -100 to 100"),
        ({"priority": None}, "priority is a number from -100 to 100"),
        ({"runs_in": "thraed"}, "runs_in is one of loop, thread, process"),
        ({"concurrency_key": "a:{nope}"}, "names 'nope', .* arguments are shop, page"),
        ({"concurrency_key": "a:{}"}, "names '', .* arguments are shop, page"),
        ({"concurrency_key": "a:{0}"}, "names '0'"),
        ({"concurrency_key": "a:{shop:{wide}}"}, "names 'wide'"),
        ({"concurrency_key": "a:{shop"}, "no template such as 'shop:{shop_id}'"),
        ({"concurrency_key": ""}, "has 1 to 120 characters"),
        ({"concurrency_key": "k" * 121}, "has 1 to 120 characters"),
        ({"concurrency_key": "a\0b"}, "cannot be stored"),
        ({"concurrency_key": 7}, "concurrency_key is text, .* or a function"),
        ({"concurrency_key": lambda shop, nope: f"{shop}{nope}"}, "asks for 'nope', .* are shop, page"),
    ],
)
def test_an_option_that_can_never_work_is_refused_where_it_is_declared(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"shop\.work: .*{reason}"):
        declare(**options)


@pytest.mark.parametrize("function", [_yields, _yields_plainly])
def test_a_handler_returns_and_does_not_yield(function: Any) -> None:
    with pytest.raises(TypeError, match=r"shop\.work: a handler does not yield"):
        declare(function)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 32_767, "priority": -100, "queue": "q" * 64, "timeout_seconds": 1},
        {"max_attempts": 1, "priority": 100, "queue": "paket-größe", "timeout_seconds": 0.001},
        {"concurrency_key": "{shop}/{page!r:>{shop}}/{{literal}}"},
        {"concurrency_key": "only one"},
        {"concurrency_key": lambda **arguments: "-".join(map(str, arguments.values()))},
        {"concurrency_key": lambda page, step=1: f"{page}{step}"},
    ],
)
def test_what_works_is_taken(options: dict[str, Any]) -> None:
    declared = declare(**options)
    assert declared.concurrency_key_of({"shop": 7, "page": 2}) in {
        None, "7/      2/{literal}", "only one", "7-2", "21",
    }  # fmt: skip
    new_job(client(), call(declared, shop=7, page=2))


def test_a_function_that_makes_the_key_gets_what_it_asks_for() -> None:
    declared = declare(concurrency_key=lambda shop: f"shop {shop}")
    row = new_job(client(), call(declared, shop=7, page=2))
    assert row.concurrency_key == "shop 7"


def test_a_function_that_makes_no_key_of_text_is_the_products_fault_and_not_the_clients() -> None:
    declared = declare(concurrency_key=lambda shop: shop)
    with pytest.raises(JobUsageError, match=r"concurrency_key of shop\.work gave 7: let it give text"):
        new_job(client(), call(declared, shop=7))
    keyless = declare(concurrency_key=lambda shop: None)
    assert new_job(client(), call(keyless, shop=7)).concurrency_key is None


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_attempts", 100_000),
        ("max_attempts", "5"),
        ("max_attempts", True),
        ("timeout_seconds", 0),
        ("timeout_seconds", -1),
        ("timeout_seconds", NAN),
        ("timeout_seconds", INFINITY),
        ("timeout_seconds", "30"),
        ("delay_seconds", NAN),
        ("delay_seconds", INFINITY),
        ("delay_seconds", -INFINITY),
        ("delay_seconds", 1e13),
        ("delay_seconds", 10**400),
        ("delay_seconds", "3"),
        ("delay_seconds", timedelta(seconds=3)),
        ("run_at", "2030-01-01T00:00:00Z"),
        ("run_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - the zone is what it lacks
        ("deadline_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - as above
        ("deadline_at", 1e9),
        ("queue", "q" * 65),
        ("queue", ""),
        ("queue", "a\0b"),
        ("queue", 7),
        ("priority", 101),
        ("priority", 1.5),
        ("priority", "1"),
        ("unique_key", "a\0b"),
        ("unique_key", "\ud800"),
        ("unique_key", ""),
        ("unique_key", "k" * 121),
        ("unique_key", 7),
        ("concurrency_key", "a\0b"),
        ("concurrency_key", 7),
    ],
)
@pytest.mark.parametrize("kind", [declare(), "another.version"], ids=["known", "unknown"])
def test_an_option_that_cannot_be_kept_is_refused_when_it_is_enqueued(
    kind: Any, option: str, value: Any
) -> None:
    with pytest.raises(ValidationException) as caught:
        new_job(client(), call(kind, **{option: value}))
    assert [problem.location for problem in caught.value.problems] == [option]


def test_options_that_can_be_kept_are() -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    row = new_job(
        client(),
        call(
            declare(),
            run_at=later,
            deadline_at=later,
            max_attempts=32_767,
            timeout_seconds=1,
            priority=-100,
            queue="q" * 64,
            unique_key="ü" * 120,
            concurrency_key="k",
        ),
    )
    assert (row.run_at, row.deadline_at, row.max_attempts, row.timeout_seconds) == (later, later, 32_767, 1)
    assert (row.priority, row.queue, row.unique_key, row.concurrency_key) == (
        -100, "q" * 64, "-:" + "ü" * 120, "k",
    )  # fmt: skip
    assert new_job(client(), call(declare(), delay_seconds=-5)).run_at is None
    assert new_job(client(), call(declare(), delay_seconds=60)).run_at is not None
    assert new_job(client(), call(declare())).max_attempts == 5
