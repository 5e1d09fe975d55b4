"""Cursors come back as they went out, and nothing else is accepted."""

import base64
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.kit.errors import ValidationException
from scalable_fastapi_system.kit.pagination import decode_cursor, encode_cursor, page_of


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.integers(-(2**62), 2**62), st.text(max_size=20))
def test_a_cursor_gives_back_the_values_it_was_made_of(moment, identifier, number, text):
    cursor = encode_cursor([moment, identifier, number, text])
    assert decode_cursor(cursor, types=(datetime, UUID, int, str)) == (moment, identifier, number, text)


@given(st.text(max_size=80))
def test_any_other_text_is_a_validation_error(text):
    with pytest.raises(ValidationException) as caught:
        decode_cursor(text, types=(datetime, UUID))
    assert caught.value.field == "cursor"


def test_a_cursor_of_another_list_is_refused():
    cursor = encode_cursor(["only one"])
    with pytest.raises(ValidationException):
        decode_cursor(cursor, types=(datetime, UUID))


@pytest.mark.parametrize(
    "raw", ["[5]", "[1.5]", "[true]", "[null]", "[{}]", "[[]]", "[NaN]", "[1e999]", "{}", "5"]
)
@pytest.mark.parametrize("kind", [UUID, datetime])
def test_a_forged_value_of_another_type_is_refused(raw, kind):
    cursor = base64.urlsafe_b64encode(raw.encode()).rstrip(b"=").decode()
    with pytest.raises(ValidationException):
        decode_cursor(cursor, types=(kind,))


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(ValidationException):
        decode_cursor(encode_cursor(["2026-01-01T00:00:00"]), types=(datetime,))


def test_a_number_larger_than_the_database_knows_is_refused():
    with pytest.raises(ValidationException):
        decode_cursor(encode_cursor([2**70]), types=(int,))


def test_a_page_with_more_behind_it_has_a_cursor_and_the_last_has_none():
    first = page_of([1, 2, 3], limit=2, key=lambda row: (row,))
    assert list(first.items) == [1, 2]
    assert decode_cursor(first.next_cursor, types=(int,)) == (2,)
    assert page_of([3], limit=2, key=lambda row: (row,)).next_cursor is None
