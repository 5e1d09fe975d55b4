"""Ids sort by time and request ids are judged strictly."""

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.kit.ids import is_request_id, new_id, new_request_id


def test_ids_are_uuid_version_7_of_the_rfc_variant():
    made = new_id()
    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_ids_made_in_different_milliseconds_sort_in_that_order(monkeypatch):
    moments = iter([1_000_000_000_000_000_000, 1_000_000_000_001_000_000, 2_000_000_000_000_000_000])
    monkeypatch.setattr("time.time_ns", lambda: next(moments))
    made = [new_id() for _ in range(3)]
    assert sorted(made) == made


def test_ids_do_not_repeat():
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_a_new_request_id_is_one_that_would_be_taken_over():
    assert is_request_id(new_request_id())


@pytest.mark.parametrize("value", ["", "a" * 65, "a b", "a\nb", "é", "a;b", "<script>"])
def test_a_strange_request_id_is_refused(value):
    assert not is_request_id(value)


@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"))
def test_letters_digits_underscores_and_dashes_are_taken_over(value):
    assert is_request_id(value)


def test_request_ids_do_not_repeat():
    assert len({new_request_id() for _ in range(10_000)}) == 10_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_two_processes_do_not_give_out_the_same_request_ids():
    new_request_id()  # some are made and wait
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        os.close(writing)
        of_the_child = told.read().decode()
    assert is_request_id(of_the_child)
    assert of_the_child not in {new_request_id() for _ in range(300)}
