"""The run itself: shut in, stopped when asked, telling how far it is, leaving nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from domains.datasets.profiling import (
    ProfileCancelledError,
    ProfileRun,
    UnreadableTableError,
    engine,
    limits,
    workplace,
)


@pytest.fixture
def large(tmp_path: Path) -> ProfileRun:
    """A run that takes seconds."""
    run = ProfileRun(tmp_path)
    lines = [
        f"{number},{number * 7919 % 100_003},some text that is number {number}\n" for number in range(100_000)
    ]
    with run.source.open("w") as file:
        file.write("id,n,text\n")
        for _ in range(10):
            file.writelines(lines)
    return run


class Running:
    """A run in a thread, and how it ended."""

    def __init__(self, run: ProfileRun) -> None:
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._go, args=(run,))
        self.thread.start()

    def _go(self, run: ProfileRun) -> None:
        try:
            self.result = run.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM read_blob('/etc/*')",
        "SELECT * FROM '{outside}'",
        "COPY (SELECT 1) TO '{outside}.csv'",
        "ATTACH '{outside}.duckdb' AS other",
        "EXPORT DATABASE '{outside}-export'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "RESET lock_configuration",
    ],
)
def test_the_engine_reaches_nothing_but_its_folder(statement: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret\n")
    folder = tmp_path / "work"
    folder.mkdir()
    connection = engine.connect(folder, columns=1)
    try:
        with pytest.raises(duckdb.Error):
            connection.execute(statement.format(outside=outside)).fetchall()
    finally:
        connection.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "work"]


def test_the_engine_is_loaded_when_a_table_is_measured_and_not_before() -> None:
    code = "import sys, domains.datasets.jobs; sys.exit('duckdb' in sys.modules or 'fastapi' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_home_and_no_other_writable_place_is_needed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from domains.datasets.profiling import ProfileRun;"
        "run = ProfileRun(pathlib.Path(sys.argv[1])); run.source.write_text('a\\n1\\n'); print(run.run()['rows'])"
    )
    environment = {**os.environ, "HOME": "/nonexistent", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("reached", [0.0, 0.05, 0.3, 0.6])
def test_a_run_ends_where_it_is_when_it_is_cancelled(large: ProfileRun, reached: float) -> None:
    running = Running(large)
    while running.thread.is_alive() and large.fraction < reached:
        time.sleep(0.001)
    large.cancel()
    running.thread.join(60)

    assert isinstance(running.error, ProfileCancelledError)
    assert reached <= large.fraction < 1.0


def test_a_run_that_was_cancelled_before_it_began_does_not_begin(large: ProfileRun) -> None:
    large.cancel()
    with pytest.raises(ProfileCancelledError):
        large.run()


def test_progress_only_grows_and_comes_in_steps(large: ProfileRun) -> None:
    running = Running(large)
    seen: list[tuple[float, str]] = []
    while running.thread.is_alive():
        seen.append((large.fraction, large.message))
        time.sleep(0.01)

    fractions = [fraction for fraction, _ in seen]
    assert running.error is None
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.1
    assert large.fraction == 1.0
    assert len(set(fractions)) >= 6
    assert {message for _, message in seen} >= {"reading the table", "measuring column 2 of 3"}


def test_a_table_that_needs_more_memory_than_allowed_is_refused(
    large: ProfileRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MEMORY_LIMIT_BYTES", 16 * limits.MIB)
    with pytest.raises(UnreadableTableError, match="more memory or disk"):
        large.run()


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_workplace_is_empty_and_goes_with_all_that_is_in_it(temporary_folder: Path) -> None:
    with workplace() as folder:
        assert list(folder.iterdir()) == []
        (folder / "upload").write_text("x")
        (folder / "spill").mkdir()
    assert list(temporary_folder.iterdir()) == []


def test_what_a_dead_process_left_is_cleared_away_and_what_a_living_one_has_is_not(
    temporary_folder: Path,
) -> None:
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1];"
        "from domains.datasets.profiling import workplace; place = workplace(); folder = place.__enter__();"
        "(folder / 'upload').write_text('x'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(temporary_folder)], check=False)
    assert len(list(temporary_folder.iterdir())) == 1

    with workplace() as first:
        assert list(temporary_folder.iterdir()) == [first.parent]
        with workplace() as second:
            assert sorted(temporary_folder.iterdir()) == sorted([first.parent, second.parent])
