"""What `make run` keeps in `.local`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hack.dev.errors import DevError
from hack.dev.layout import Layout
from hack.dev.processes import ProcessMark


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.of(tmp_path)
    layout.create()
    return layout


def test_secrets_are_made_once_and_are_ours_alone(layout: Layout) -> None:
    first = layout.secrets()
    assert layout.secrets() == first
    assert len({*vars(first).values()}) == 4
    assert all(len(value) >= 43 for value in vars(first).values())
    assert (layout.folder / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_secrets_of_another_shape_are_refused_with_the_way_out(layout: Layout) -> None:
    (layout.folder / "secrets.json").write_text('{"password": "old"}')
    with pytest.raises(DevError) as caught:
        layout.secrets()
    assert str(layout.folder) in caught.value.advice


def test_a_file_that_is_no_json_is_named(layout: Layout) -> None:
    (layout.folder / "run.json").write_text('{"urls": ')
    with pytest.raises(DevError, match=r"run\.json"):
        layout.read_run()


def test_only_one_holds_the_lock_and_it_can_be_seen_who(layout: Layout) -> None:
    other = Layout(layout.folder)
    assert layout.acquire()
    assert not other.acquire()
    assert other.holder() == os.getpid()
    layout.release()
    assert other.acquire()
    other.release()


def test_what_runs_is_published_and_withdrawn(layout: Layout) -> None:
    assert layout.read_run() is None
    layout.write_run({"urls": {"api": "http://127.0.0.1:8000"}})
    assert layout.read_run() == {"urls": {"api": "http://127.0.0.1:8000"}}
    layout.remove_run()
    layout.remove_run()
    assert layout.read_run() is None


def test_children_are_remembered_until_they_are_struck_off(layout: Layout) -> None:
    marks = [ProcessMark("api", 12, 1.5), ProcessMark("worker", 13, 2.5)]
    layout.write_children(marks)
    assert layout.read_children() == marks
    layout.remove_children()
    assert layout.read_children() == []


def test_a_reader_never_sees_half_a_file(layout: Layout) -> None:
    layout.write_run({"urls": {}})
    before = (layout.folder / "run.json").stat().st_ino
    layout.write_run({"urls": {}})
    assert (layout.folder / "run.json").stat().st_ino != before  # replaced, not rewritten
    assert json.loads((layout.folder / "run.json").read_text()) == {"urls": {}}
