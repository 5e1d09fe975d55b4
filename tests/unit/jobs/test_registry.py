"""Declaring job kinds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import Backoff, JobContext, JobRegistry, call, job
from scalable_fastapi_system.jobs.enqueueing import new_job
from scalable_fastapi_system.jobs.limits import Limits, decode
from scalable_fastapi_system.jobs.registry import MAX_KEY_LENGTH
from scalable_fastapi_system.jobs.schedules import CronSchedule
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ValidationException


@pytest.fixture
def registry() -> JobRegistry:
    return JobRegistry()


class Address(BaseModel):
    street: str


def test_arguments_come_back_as_the_types_of_the_signature(registry: JobRegistry) -> None:
    @job("shop.ship", registry=registry)
    async def ship(ctx: JobContext, *, order_id: UUID, address: Address, copies: int = 1) -> None: ...

    raw = ship.encode_args({"order_id": UUID(int=5), "address": Address(street="High")})
    values = ship.decode_args(raw.decode())
    assert values == {"order_id": UUID(int=5), "address": Address(street="High")}


def test_any_name_will_do_for_an_argument(registry: JobRegistry) -> None:
    @job("odd.names", registry=registry)
    async def odd(ctx: JobContext, *, copy: int, json: str, model_config: int, schema: bool) -> None: ...

    values = {"copy": 1, "json": "x", "model_config": 2, "schema": True}
    assert odd.decode_args(odd.encode_args(values).decode()) == values


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"number": "x"}, "number"), ({}, "number"), ({"number": 1, "numbr": 2}, "numbr")],
)
def test_what_does_not_fit_is_named(registry: JobRegistry, arguments: dict[str, Any], named: str) -> None:
    @job("typed", registry=registry)
    async def typed(ctx: JobContext, *, number: int) -> None: ...

    with pytest.raises(ValidationException, match=named) as caught:
        typed.encode_args(arguments)
    assert caught.value.problems


@pytest.mark.parametrize(
    "arguments",
    [{"share": "Infinity"}, {"share": float("nan")}, {"shares": {"a": float("inf")}}, {"raw": b"\xff"}],
)
def test_what_json_cannot_carry_is_refused_at_once(registry: JobRegistry, arguments: dict[str, Any]) -> None:
    @job("shares", registry=registry)
    async def shares(
        ctx: JobContext, *, share: float = 0.0, shares: dict[str, float] | None = None, raw: bytes = b""
    ) -> None: ...

    with pytest.raises(ValidationException, match=r"do not fit|cannot be stored"):
        shares.encode_args(arguments)


@pytest.mark.parametrize(
    "number", [10**20, 2**64, -(2**63) - 1, 10**4000], ids=["1e20", "2**64", "-2**63-1", "1e4000"]
)
def test_an_integer_that_would_come_back_as_another_is_refused(registry: JobRegistry, number: int) -> None:
    @job("counts", registry=registry)
    async def counts(ctx: JobContext, *, number: int = 0, data: dict[str, Any] | None = None) -> None: ...

    client: Any = SimpleNamespace(find_handler=registry.get)
    for arguments in ({"number": number}, {"data": {"deep": [number]}}):
        for handler in (counts, "of another version"):
            with pytest.raises(ValidationException, match="64 bits"):
                new_job(client, call(handler, **arguments))


@pytest.mark.parametrize(
    "value", [2**64 - 1, -(2**63), "1" * 30, '"\\' + "9" * 30, 1e300, 0.1234567890123456]
)
def test_long_numbers_that_come_back_as_they_were_are_taken(registry: JobRegistry, value: Any) -> None:
    @job("counts", registry=registry)
    async def counts(ctx: JobContext, *, value: Any) -> None: ...

    raw = counts.encode_args({"value": value})
    assert counts.decode_args(raw.decode()) == decode(raw) == {"value": value}


def test_a_kind_is_declared_once(registry: JobRegistry) -> None:
    @job("twice", registry=registry)
    async def first(ctx: JobContext) -> None: ...

    async def second(ctx: JobContext) -> None: ...

    with pytest.raises(ValueError, match="declared twice"):
        job("twice", registry=registry)(second)
    registry.add(first)  # the same one again, as by a second import, is fine


@pytest.mark.parametrize("kind", ["", "Upper", "a..b", ".a", "a b", "x" * 101])
def test_a_kind_is_lower_case_words_and_dots(registry: JobRegistry, kind: str) -> None:
    async def handler(ctx: JobContext) -> None: ...

    with pytest.raises(ValueError, match="no job kind"):
        job(kind, registry=registry)(handler)


def test_signatures_that_cannot_work_are_refused(registry: JobRegistry) -> None:
    async def positional(ctx: JobContext, number: int) -> None: ...

    async def untyped(ctx: JobContext, *, number) -> None: ...  # type: ignore[no-untyped-def]

    async def reserved(ctx: JobContext, *, owner_id: int) -> None: ...

    async def no_context() -> None: ...

    for handler, reason in (
        (positional, "keyword-only"),
        (untyped, "no type"),
        (reserved, "takes for itself"),
        (no_context, "JobContext"),
    ):
        declared = job(f"bad.{handler.__name__}", registry=registry)(handler)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=reason):
            declared.encode_args({})


def test_an_async_function_stays_in_the_loop(registry: JobRegistry) -> None:
    async def handler(ctx: JobContext) -> None: ...

    def plain(ctx: Any) -> None: ...

    with pytest.raises(TypeError, match="runs in the loop"):
        job("in.thread", registry=registry, runs_in="thread")(handler)
    assert job("plain.one", registry=registry)(plain).runs_in == "thread"


def test_a_concurrency_key_is_filled_from_the_arguments(registry: JobRegistry) -> None:
    @job("keyed", registry=registry, concurrency_key="shop:{shop_id}")
    async def keyed(ctx: JobContext, *, shop_id: int) -> None: ...

    @job("keyed.by_function", registry=registry, concurrency_key=lambda shop_id: f"f{shop_id}")
    async def by_function(ctx: JobContext, *, shop_id: int) -> None: ...

    assert keyed.concurrency_key_of({"shop_id": 7}) == "shop:7"
    assert by_function.concurrency_key_of({"shop_id": 7}) == "f7"
    with pytest.raises(ValidationException, match="shop_id"):
        keyed.concurrency_key_of({})


def test_a_concurrency_key_is_one_however_its_value_is_written(registry: JobRegistry) -> None:
    @job("written", registry=registry, concurrency_key="shop:{shop_id}:{share}")
    async def written(ctx: JobContext, *, shop_id: int, share: float = 1) -> None: ...

    @job("written.by_function", registry=registry, concurrency_key=lambda shop_id: f"f{shop_id}")
    async def by_function(ctx: JobContext, *, shop_id: int = 7, copies: int = 1) -> None: ...

    client: Any = SimpleNamespace(limits=Limits(1000, 1000), settings=Settings(_env_file=None))
    ways: list[dict[str, Any]] = [
        {"shop_id": 7},
        {"shop_id": "7 ", "share": 1.0},
        {"shop_id": "+7", "share": "1"},
    ]
    assert {new_job(client, call(written, **way)).concurrency_key for way in ways} == {"shop:7:1.0"}
    for way in ({}, {"shop_id": "7"}):
        assert new_job(client, call(by_function, **way)).concurrency_key == "f7"
        assert (
            CronSchedule("n", "* * * * *", by_function, tuple(way.items())).job_for(utc_now()).concurrency_key
            == "f7"
        )


def test_a_unique_key_depends_on_kind_and_arguments(registry: JobRegistry) -> None:
    @job("unique.one", registry=registry, unique=True)
    async def one(ctx: JobContext, *, page: int) -> None: ...

    keys = {one.unique_key_of(one.encode_args({"page": page})) for page in (1, 1, 2)}
    assert len(keys) == 2


def test_a_unique_key_is_one_however_its_arguments_are_written(registry: JobRegistry) -> None:
    @job("unique.written", registry=registry, unique=True)
    async def written(
        ctx: JobContext,
        *,
        pages: dict[str, int],
        share: float = 1,
        name: str | None = None,
        odd: Any = object,
    ) -> None: ...

    def keys(*ways: dict[str, Any]) -> set[str]:
        return {written.unique_key_of(written.encode_args(way)) for way in ways}

    assert (
        len(
            keys(
                {"pages": {"a": 1, "b": 2}},
                {"pages": {"b": "2", "a": 1.0}, "share": 1.0},
                {"name": None, "pages": {"b": 2, "a": 1}},
            )
        )
        == 1
    )
    assert (
        len(keys({"pages": {}}, {"pages": {}, "share": 2}, {"pages": {}, "name": ""}, {"pages": {"a": 1}}))
        == 4
    )


def test_arguments_as_deep_as_can_be_stored_may_be_unique(registry: JobRegistry) -> None:
    @job("unique.deep", registry=registry, unique=True)
    async def deep(ctx: JobContext, *, data: Any) -> None: ...

    data: Any = {}
    keys = set()
    with pytest.raises(ValidationException, match="cannot be stored"):
        for _ in range(1000):
            data = {"a": data}
            keys.add(deep.unique_key_of(deep.encode_args({"data": data})))
    assert len(keys) > 200


@pytest.mark.parametrize("length", [79, 80, 100])
def test_a_kind_of_any_length_may_be_unique(registry: JobRegistry, length: int) -> None:
    @job("k" * length, registry=registry, unique=True)
    async def one(ctx: JobContext) -> None: ...

    @job("k" * (length - 1), registry=registry, unique=True)
    async def other(ctx: JobContext) -> None: ...

    keys = {handler.unique_key_of(handler.encode_args({})) for handler in (one, other)}
    assert len(keys) == 2
    assert max(map(len, keys)) <= MAX_KEY_LENGTH


async def test_a_handler_can_be_called_as_the_function_that_it_is(registry: JobRegistry) -> None:
    @job("callable", registry=registry)
    async def double(ctx: JobContext, *, number: int) -> int:
        """Doubles."""
        return number * 2

    assert await double(None, number=4) == 8  # type: ignore[arg-type]
    assert (double.__name__, double.__doc__) == ("double", "Doubles.")
    assert "callable" in registry
    assert registry.get("other") is None


def test_back_off_grows_to_its_ceiling_with_full_jitter() -> None:
    backoff = Backoff(base_seconds=2, cap_seconds=60)
    most = [backoff.delay_seconds(failures, lambda: 1.0) for failures in (1, 2, 3, 6, 500)]
    assert most == [2, 4, 8, 60, 60]
    assert backoff.delay_seconds(3, lambda: 0.25) == 2
