"""The one shape of answers, and what JSON makes of the values that stores and models give."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import orjson
import pytest
from asyncpg.pgproto import pgproto
from pydantic import BaseModel
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


@pytest.mark.parametrize("value", [b"bytes", object(), complex(1, 2)])
def test_what_json_cannot_say_is_an_error(value):
    with pytest.raises(TypeError):
        to_json({"value": value})


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
