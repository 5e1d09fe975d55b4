"""The one shape of answers, and what JSON makes of the values that stores and models give."""

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from uuid import UUID

import httpx
import orjson
import pytest
from asyncpg.pgproto import pgproto
from fastapi import HTTPException
from pydantic import AnyUrl, BaseModel, SecretBytes, SecretStr
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.envelope import respond, to_json
from starlette.requests import HTTPConnection

ID = "018f6d1c-0f5e-7cc0-8000-000000000001"


class Colour(StrEnum):
    RED = "red"


class Thing(BaseModel):
    id: UUID
    made_at: datetime
    colour: Colour = Colour.RED


def test_a_row_of_the_driver_is_json_with_its_own_kind_of_uuid():
    assert orjson.loads(to_json({"id": pgproto.UUID(ID)})) == {"id": ID}


def test_models_are_json_as_pydantic_writes_them_alone_and_in_lists():
    thing = Thing(id=UUID(ID), made_at=datetime(2026, 1, 1, tzinfo=UTC))
    expected = {"id": ID, "made_at": "2026-01-01T00:00:00Z", "colour": "red"}
    assert orjson.loads(to_json({"one": thing, "many": [thing]})) == {"one": expected, "many": [expected]}


def test_sets_are_sorted_and_decimals_are_text():
    assert orjson.loads(to_json({"s": {3, 1, 2}, "d": Decimal("1.10")})) == {"s": [1, 2, 3], "d": "1.10"}


class Point(NamedTuple):
    x: int
    y: int


class Level(IntEnum):
    HUGE = 2**70


@dataclass
class Count:
    of: int
    _hidden: int = 0


# As FastAPI writes them, but for those that the platform writes otherwise everywhere (decimals, sets in order).
AS_IN_FASTAPI = [
    (timedelta(minutes=1, milliseconds=500), 60.5),
    (PurePosixPath("/a/b"), "/a/b"),
    (Path("/a/b"), "/a/b"),
    (ip_address("192.0.2.1"), "192.0.2.1"),
    (ip_network("2001:db8::/32"), "2001:db8::/32"),
    (Point(1, 2), [1, 2]),
    (deque([1, deque([2])]), [1, [2]]),
    (SecretStr("hunter2"), "**********"),
    (SecretBytes(b"hunter2"), "b'**********'"),
    ("é".encode(), "é"),
    (AnyUrl("https://example.com/"), "https://example.com/"),
    (re.compile("a+"), "a+"),
    (time(1, 2, tzinfo=UTC), "01:02:00+00:00"),
    (2**64 - 1, 2**64 - 1),
    (2**64, 2**64),
    (-(2**70), -(2**70)),
    ("\ud800", "\ud800"),
    (Level.HUGE, 2**70),
    (Count(2**70), {"of": 2**70}),
    ({"1.5": {1: 2**70}}, {"1.5": {"1": 2**70}}),
]


@pytest.mark.parametrize(("value", "expected"), AS_IN_FASTAPI, ids=lambda value: repr(value)[:40])
def test_values_that_only_python_knows_are_json_as_in_fastapi(value, expected):
    assert json.loads(to_json({"v": [value]})) == {"v": [expected]}


def test_beside_a_large_number_everything_is_written_as_without_it():
    thing = Thing(id=UUID(ID), made_at=datetime(2026, 1, 1, tzinfo=UTC))
    content = {
        "model": thing,
        "text": 'é "quoted"',
        "decimal": Decimal("1.10"),
        "set": {3, 1, 2},
        "colour": Colour.RED,
        "at": [
            datetime(2026, 1, 1, 2, 3, 4, 5, tzinfo=UTC),
            datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
            date(2026, 1, 1),
        ],
        "id": [UUID(ID), pgproto.UUID(ID)],
        "numbers": [1.5, float("nan"), float("inf"), True, None],
        "count": Count(1),
        1: {None: 1, True: 2, 1.5: 3, UUID(ID): 4, date(2026, 1, 1): 5, Colour.RED: 6},
    }
    assert json.loads(to_json({**content, "large": 2**70})) == json.loads(to_json(content)) | {"large": 2**70}
    assert b", " not in to_json([2**70, 1])


def test_a_set_of_several_types_is_in_an_order_that_is_the_same_in_every_process():
    assert orjson.loads(to_json({"a", 1, None, "b"})) == ["a", "b", 1, None]


async def test_the_detail_of_an_exception_may_hold_them(make_settings: Callable[..., Settings]) -> None:
    app = create_app(make_settings())

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(400, detail={"n": 2**70, "at": Point(1, 2)})

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/refused")
    assert (answer.status_code, answer.json()["data"]) == (400, {"n": 2**70, "at": [1, 2]})


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [object(), complex(1, 2), b"\xff", (one for one in [1]), {(1, 2): 3}, LOOP],
    ids=["object", "complex", "bytes", "generator", "key", "loop"],
)
def test_what_json_cannot_say_is_an_error(value):
    with pytest.raises(TypeError):
        to_json({"value": value})
    with pytest.raises(TypeError):
        to_json({"large": 2**70, "value": value})


def test_the_envelope_carries_the_request_id_and_the_members_beside_data():
    connection = HTTPConnection({"type": "http", "state": {"request_id": "abc"}})
    response = respond(connection, {"x": 1}, "Made", status_code=201, headers={"x-a": "b"}, task_id=ID)
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.body))
    assert response.headers["x-a"] == "b"
    assert orjson.loads(response.body) == {
        "success": True,
        "message": "Made",
        "data": {"x": 1},
        "request_id": "abc",
        "task_id": ID,
    }


@pytest.mark.parametrize("status", [204, 205, 304])
def test_what_has_no_body_has_no_envelope(status):
    response = respond(HTTPConnection({"type": "http"}), None, status_code=status, headers={"x-a": "b"})
    assert (response.status_code, response.body, response.headers["x-a"]) == (status, b"", "b")


def test_a_member_may_not_hide_one_of_the_envelope():
    with pytest.raises(ValueError, match="success"):
        respond(HTTPConnection({"type": "http"}), success=False)
