"""The dev loop's reloader: a real command, started anew when a source changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

SERVICE = """
import os, signal, sys, time
def end(*_):
    open("log", "a").write("ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open("log", "a").write(f"started {open('packages/part.py').read().strip()}\\n")
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def loop(tmp_path):
    """A folder with sources, a service in it, and the reloader that runs it."""
    for folder in ("packages", "services"):
        (tmp_path / folder).mkdir()
    (tmp_path / "packages" / "part.py").write_text("one")
    (tmp_path / "service.py").write_text(SERVICE)
    process = subprocess.Popen(
        [sys.executable, "-m", "services.reload", sys.executable, "service.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    yield tmp_path, process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its command, too
    process.wait()


def log_of(folder, lines, seconds=20.0):
    """The log, once it has so many lines."""
    deadline = time.monotonic() + seconds
    log = folder / "log"
    while time.monotonic() < deadline:
        if log.exists() and len(log.read_text().splitlines()) >= lines:
            return log.read_text().splitlines()
        time.sleep(0.05)
    pytest.fail(f"no {lines} lines: {log.read_text() if log.exists() else 'no log'}")


def test_a_changed_source_ends_the_command_and_starts_it_anew(loop):
    folder, _ = loop
    assert log_of(folder, 1) == ["started one"]
    (folder / "packages" / "part.py").write_text("two")
    assert log_of(folder, 3) == ["started one", "ended", "started two"]


def test_a_new_source_counts_and_another_file_does_not(loop):
    folder, _ = loop
    log_of(folder, 1)
    (folder / "services" / "notes.txt").write_text("x")
    time.sleep(1.2)
    assert log_of(folder, 1) == ["started one"]
    (folder / "services" / "new.py").write_text("x")
    assert log_of(folder, 3)[1:] == ["ended", "started one"]


def test_a_command_that_fails_is_started_again_at_the_next_change(loop):
    folder, _ = loop
    log_of(folder, 1)
    (folder / "service.py").write_text('open("log", "a").write("failed\\n")\nraise SystemExit(3)')
    (folder / "packages" / "part.py").write_text("broken")
    assert log_of(folder, 3)[1:] == ["ended", "failed"]
    time.sleep(1.5)
    (folder / "service.py").write_text(SERVICE)
    (folder / "packages" / "part.py").write_text("mended")
    assert log_of(folder, 4)[3:] == ["started mended"]


def test_its_end_is_the_end_of_the_command(loop):
    folder, process = loop
    log_of(folder, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert log_of(folder, 2) == ["started one", "ended"]
