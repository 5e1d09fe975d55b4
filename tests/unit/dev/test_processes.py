"""Children: how they start, end, and are recognised later."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.dev.errors import DevError
from hack.dev.processes import Child, ProcessMark, end, tail, wait_until

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
TICKER = (
    "import time; print('up', flush=True)\nfor tick in range(6000): time.sleep(0.01); print(tick, flush=True)"
)


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(p.pid, flush=True); print('up', flush=True); time.sleep(60)"
)


class Children:
    """Starts children and kills what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Child] = []

    def make(self, code: str) -> Child:
        command = [sys.executable, "-c", code]
        self.made.append(Child("the child", command, log_path=self.folder / "child.log", cwd=self.folder))
        return self.made[-1]

    def start(self, code: str) -> Child:
        """A child that has said "up"."""
        process = self.make(code)
        process.start()
        assert wait_until(lambda: "up" in process.log_tail(), timeout_seconds=30)
        return process


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    children = Children(tmp_path)
    yield children
    for child in children.made:
        child.kill()


def test_it_stops_when_asked(children: Children) -> None:
    process = children.start(SLEEPER)
    assert process.stop(grace_seconds=10)
    assert process.describe_exit() == "was killed by SIGTERM"


def test_it_is_killed_after_the_grace(children: Children) -> None:
    process = children.start(STUBBORN)
    assert not process.stop(grace_seconds=0.2)
    assert process.describe_exit() == "was killed by SIGKILL"


def test_its_own_children_go_with_it(children: Children) -> None:
    process = children.start(PARENT)
    grandchild = ProcessMark.of("grandchild", int(process.log_tail()[0]))
    process.stop(grace_seconds=10)
    assert wait_until(lambda: not grandchild.is_running(), timeout_seconds=10)


def test_it_is_not_in_the_terminals_process_group(children: Children) -> None:
    process = children.start(SLEEPER)
    assert os.getpgid(process.pid) != os.getpgrp()
    process.kill()


def test_it_can_be_started_again_and_shows_the_new_lines_only(children: Children) -> None:
    process = children.make("import os; print(os.getpid())")
    process.start()
    process.wait_or_kill(grace_seconds=10)
    first = process.log_tail()
    process.start()
    process.wait_or_kill(grace_seconds=10)
    assert process.log_tail() != first
    assert process.log_path.read_text().splitlines() == first + process.log_tail()
    assert process.describe_exit() == "exited with code 0"


def test_a_missing_program_is_said(tmp_path: Path) -> None:
    process = Child("redis", ["/nowhere/redis-server"], log_path=tmp_path / "log", cwd=tmp_path)
    with pytest.raises(DevError, match="redis cannot be started") as caught:
        process.start()
    assert caught.value.advice == "Try: make setup"


def test_a_frozen_child_goes_on_when_thawed(children: Children) -> None:
    process = children.start(TICKER)
    process.freeze()
    time.sleep(0.1)
    size = process.log_path.stat().st_size
    time.sleep(0.2)
    assert process.log_path.stat().st_size == size
    process.thaw()
    assert wait_until(lambda: process.log_path.stat().st_size > size, timeout_seconds=10)
    process.kill()


def test_a_process_of_another_run_is_ended_by_its_mark(children: Children) -> None:
    process = children.start(SLEEPER)
    assert end(process.mark(), grace_seconds=10)
    assert process.exit_code == -signal.SIGTERM


def test_a_process_that_got_a_used_id_is_left_alone(children: Children) -> None:
    process = children.start(SLEEPER)
    someone_else = ProcessMark("gone", process.pid, process.mark().started_at - 3600)
    assert not someone_else.is_running()
    assert end(someone_else, grace_seconds=1)
    assert process.is_running
    process.kill()


def test_the_tail_of_a_file_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(100_000)))
    assert tail(path, count=2) == ["99998", "99999"]
    assert tail(path, count=5, from_byte=path.stat().st_size) == []
    assert tail(tmp_path / "none", count=5) == []
