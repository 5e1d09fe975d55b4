"""Which calls are one, and whose they are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import pytest
from fastapi import BackgroundTasks, Depends, Request, Response
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, SecretBytes, SecretStr
from scalable_fastapi_system.identity.models import User
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.infra.cache.call_keys import _CALLERS, _PASSED_OVER, CallKeys, made_with
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from nowhere import Unknown


class Colour(Enum):
    RED = "red"


class Filter(BaseModel):
    name: str


class Narrow(Filter):
    size: int = 0


class Search(BaseModel):
    model_config = ConfigDict(extra="allow")

    wanted: Filter
    tenant: str = Field("a", exclude=True)
    old: int = Field(0, deprecated=True)
    source: AnyUrl | IPv4Address | None = None


class Login(BaseModel):
    name: str
    password: SecretStr | SecretBytes


class Row(BaseModel):
    number: int


@dataclass
class Range:
    start: int


async def posts(user_id: int, page: int = 1, *, order: str = "new") -> None: ...


def digest(function: Any, *args: Any, **kwargs: Any) -> str:
    return CallKeys(function).of(args, kwargs).digest


def test_form_and_order_of_a_call_do_not_matter() -> None:
    same = {
        digest(posts, 1),
        digest(posts, 1, 1),
        digest(posts, user_id=1),
        digest(posts, page=1, user_id=1),
        digest(posts, 1, order="new"),
    }
    assert len(same) == 1
    assert digest(posts, 2) not in same
    assert digest(posts, 1, 2) not in same


async def anything(value: Any = None, *values: Any, **named: Any) -> None: ...


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**53, 2**80, 1.0, 1.5, float("nan"), float("inf"), "", "1", "True", "null",
    UUID(int=1), str(UUID(int=1)), datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00", date(2026, 1, 1),
    timedelta(1), Decimal("1.0"), Decimal("1.00"), Path("a"), "a", b"a", Colour.RED, "red", [], [1], [[1]], {}, {"a": 1},
    {1: 1}, {"1": 1}, {"a": 1, "b": 2}, set(), {1}, Filter(name="x"), {"name": "x"}, Range(1), {"start": 1},
]  # fmt: skip


def test_values_that_differ_have_keys_that_differ() -> None:
    assert len({digest(anything, value) for value in VALUES}) == len(VALUES)
    assert len({digest(anything, [value]) for value in VALUES}) == len(VALUES)
    assert len({digest(anything, {"k": value}) for value in VALUES}) == len(VALUES)


def test_values_that_are_equal_have_one_key() -> None:
    assert digest(anything, {"a": 1, "b": 2}) == digest(anything, {"b": 2, "a": 1})
    assert digest(anything, {3, 1, 2}) == digest(anything, {1, 2, 3})
    assert digest(anything, (1, 2)) == digest(anything, [1, 2])
    assert digest(anything, Filter(name="x")) == digest(anything, Filter(name="x"))


def test_models_differ_by_what_they_hold_and_not_by_what_they_show() -> None:
    x = Filter(name="x")
    values: list[dict[str, Any]] = [
        {"wanted": x}, {"wanted": Narrow(name="x")}, {"wanted": Narrow(name="x", size=1)},
        {"wanted": x, "tenant": "b"}, {"wanted": x, "old": 1},
        {"wanted": x, "more": "a"}, {"wanted": x, "more": "b"}, {"wanted": x, "other": "a"},
        {"wanted": x, "source": "http://a.test/"}, {"wanted": x, "source": "http://b.test/"},
        {"wanted": x, "source": "10.0.0.1"}, {"wanted": x, "source": "10.0.0.2"},
    ]  # fmt: skip
    searches = [Search.model_validate(value) for value in values]
    assert len({digest(anything, search) for search in searches}) == len(searches)
    for search in searches:
        assert digest(anything, search.model_copy(deep=True)) == digest(anything, search)


@pytest.mark.parametrize("password", [SecretStr("one"), SecretBytes(b"one")])
def test_a_secret_in_a_model_is_no_part_of_a_key(password: Any) -> None:
    with pytest.raises(TypeError, match="Secret"):
        digest(anything, Login(name="john", password=password))


def test_a_field_that_a_model_does_not_hold_is_an_error_and_not_left_out() -> None:
    with pytest.raises(AttributeError, match="number"):
        digest(anything, Row.model_construct())


def test_variable_arguments_count() -> None:
    assert len({digest(anything, 1), digest(anything, 1, 2), digest(anything, 1, extra=2)}) == 3


@pytest.mark.parametrize("value", [object(), [object()], {"k": object()}, lambda: None])
def test_what_has_no_canonical_form_is_an_error_that_says_what_to_do(value: Any) -> None:
    with pytest.raises(TypeError, match="ignore=\\('value',\\)"):
        digest(anything, value)


def test_a_parameter_can_be_ignored_by_name() -> None:
    keys = CallKeys(posts, ignore=["page"])
    assert keys.of((1, 1), {}).digest == keys.of((1, 2), {}).digest
    with pytest.raises(ValueError, match="pages"):
        CallKeys(posts, ignore=["pages"])


def request_of(path: str = "/", query: str = "", principal: Any = None, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": raw,
        "state": {"principal": principal} if principal else {},
    }  # fmt: skip
    return Request(scope)


def test_what_says_how_an_answer_is_made_is_passed_over() -> None:
    plain = CallKeys(anything).of((1,), {})
    assert not plain.has_passing_arguments
    for value in (AsyncSession(), Session(), Response(), BackgroundTasks(), Depends(posts)):
        call = CallKeys(anything).of((value,), {})
        assert call.digest == CallKeys(anything).of((Response(),), {}).digest
        assert call.has_passing_arguments, "it ends with the request: nothing may use it in the background"


def test_the_names_of_what_is_known_by_name_are_names_of_classes() -> None:
    for name in _PASSED_OVER | _CALLERS:
        module, _, cls = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), cls), type), name


def principal(key: str = "user:1", role: str = "user", scopes: frozenset[str] | None = None) -> Principal:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Principal(1, "john", "john@example.com", role, True, now, now, scopes=scopes, key=key)


def test_a_principal_is_the_caller_with_all_that_they_may_do() -> None:
    callers = [
        principal(), principal("user:2"), principal(role="admin"), principal(scopes=frozenset()),
        principal(scopes=frozenset({"a:read"})), principal(scopes=frozenset({"a:read", "a:write"})),
        principal("api_key:1"),
    ]  # fmt: skip
    identities = {CallKeys(anything).of((caller,), {}).identity for caller in callers}
    assert len(identities) == len(callers)
    assert None not in identities


def test_a_stored_user_is_the_caller() -> None:
    one, two = (User(id=number, username="u", email="e", hashed_password="h") for number in (1, 2))
    identities = {CallKeys(anything).of((user,), {}).identity for user in (one, two)}
    assert len(identities) == 2
    assert None not in identities


class Named(BaseModel):
    key: str
    kind: str
    page: int = 1


class Imported(BaseModel):
    id: int
    hashed_password: str


def test_what_only_looks_like_a_caller_is_a_value() -> None:
    values = [
        Named(key="a", kind="k"), Named(key="a", kind="k", page=2), Named(key="b", kind="k"),
        Imported(id=1, hashed_password="a"), Imported(id=1, hashed_password="b"),
    ]  # fmt: skip
    calls = [CallKeys(anything).of((value,), {}) for value in values]
    assert len({call.digest for call in calls}) == len(values)
    assert {call.identity for call in calls} == {None}


def test_functions_that_one_function_makes_differ_by_what_is_plain_in_them() -> None:
    def load(kind: str) -> Any:
        async def loaded() -> str:
            return kind

        return loaded

    def make(made_from: Any) -> Any:
        async def made() -> Any:
            return made_from

        return made

    values = ["a", "b", 1, 1.0, True, None, (1, "a"), Colour.RED, Filter, Narrow, load("a"), load("b"), posts]
    functions = [make(value) for value in values]
    assert len({made_with(function) for function in functions}) == len(values)
    assert [made_with(make(value)) for value in values] == [made_with(function) for function in functions]
    assert {made_with(make(object())), made_with(make([1])), made_with(posts)} == {""}, "nothing plain"


def test_a_function_that_calls_itself_is_told_by_the_rest() -> None:
    def make(step: int) -> Any:
        async def count(number: int) -> int:
            return number if number <= 0 else await count(number - step)

        return count

    assert made_with(make(1)) == made_with(make(1))
    assert made_with(make(1)) != made_with(make(2))


def test_a_request_tells_the_caller_and_the_url() -> None:
    def call(request: Request) -> Any:
        return CallKeys(anything).of((request,), {})

    assert call(request_of()).identity is None
    callers = [
        request_of(authorization="Bearer a"), request_of(authorization="Bearer b"), request_of(x_api_key="a"),
        request_of(cookie="session=a"), request_of(principal=principal()),
        request_of(principal=principal("user:2"), authorization="Bearer a"),
    ]  # fmt: skip
    identities = {call(request).identity for request in callers}
    assert len(identities) == len(callers)
    assert None not in identities
    assert not any("Bearer" in str(identity) for identity in identities)
    urls = [request_of("/a"), request_of("/b"), request_of("/a", "page=1"), request_of("/a", "page=2")]
    assert len({call(request).url for request in urls}) == 4


async def endpoint(
    item: int,
    request: Request,
    db: AsyncSession,
    user: Annotated[Any, Depends(posts)],
    response: Response,
    page: int = 1,
) -> None: ...


def test_to_forget_an_entry_what_is_passed_over_may_be_left_out() -> None:
    keys = CallKeys(endpoint)
    whole = keys.of((5, request_of(), AsyncSession(), principal(), Response()), {})
    assert keys.partly((5,), {}).digest == keys.partly((), {"item": 5, "page": 1}).digest == whole.digest
    with pytest.raises(TypeError, match="item"):
        keys.partly((), {"page": 2})


async def typed_for_checkers_only(value: Unknown, request: Request) -> None: ...


def test_names_that_only_type_checkers_know_do_no_harm() -> None:
    keys = CallKeys(typed_for_checkers_only)
    assert keys.partly((1,), {}).digest == keys.of((1, request_of()), {}).digest
