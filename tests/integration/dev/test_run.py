"""`make run` and `make stop`: real stores and real processes, with stand-ins for the two services."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.stop import stop
from tests.support.stores import Stores

NAMES = ["postgres", "redis", "api", "worker"]


class Run:
    """One launcher on one folder."""

    def __init__(self, folder: Path, *, port: int, **stubs: str) -> None:
        self.folder = folder
        self.output_path = folder / f"output-{time.monotonic_ns()}"
        environment = {**os.environ, **{f"STUB_{name.upper()}": words for name, words in stubs.items()}}
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.stub_run", "--folder", folder, "--port", str(port)],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def facts(self) -> dict[str, dict[str, str]] | None:
        with suppress(FileNotFoundError):
            return json.loads((self.folder / ".local" / "run.json").read_text())
        return None

    def pids(self) -> dict[str, int]:
        facts = self.facts()
        assert facts is not None, self.output
        return {name: int(facts["pids"][name]) for name in NAMES}

    def until_ready(self) -> Run:
        self.until(lambda: (self.facts() or {"pids": {}})["pids"].get("launcher") == self.process.pid)
        return self

    def until(self, condition: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def exit_code(self, *, timeout_seconds: float = 30) -> int:
        return self.process.wait(timeout_seconds)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.exit_code()


Start = Callable[..., Run]


@pytest.fixture
def folder(stores: Stores) -> Path:
    return stores.new_folder()


@pytest.fixture
def port() -> int:
    return find_free()


@pytest.fixture
def start(folder: Path, port: int) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(**stubs: str) -> Run:
        runs.append(Run(folder, port=port, **stubs))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
    stop(folder)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(run: Run) -> list[psutil.Process]:
    return psutil.Process(run.process.pid).children(recursive=True)


def test_it_publishes_the_addresses_and_process_ids_of_all_four(start: Start, port: int) -> None:
    run = start().until_ready()
    facts = run.facts()
    assert facts is not None
    assert facts["urls"]["api"] == f"http://127.0.0.1:{port}"
    for name in ("api", "worker"):
        with urllib.request.urlopen(f"{facts['urls'][name]}/health/ready") as answer:
            assert answer.status == 200
    with psycopg.connect(facts["urls"]["postgres"]) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("app",)
    assert facts["urls"]["redis"].startswith("redis://:")
    assert all(is_alive(pid) for pid in run.pids().values())
    assert facts["pids"]["launcher"] == run.process.pid
    assert (run.folder / ".local" / "run.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_in_order_and_leaves_nothing(start: Start, number: signal.Signals) -> None:
    run = start().until_ready()
    family = descendants(run)
    run.process.send_signal(number)
    assert run.exit_code() == 0, run.output
    assert not [process for process in family if is_alive(process.pid)]
    assert run.facts() is None
    assert not (run.folder / ".local" / "children.json").exists()
    places = [run.output.index(f"  {name} stopped") for name in ("api", "worker", "redis", "postgres")]
    assert places == sorted(places)


def test_the_next_run_finds_its_data_and_its_addresses_again(start: Start) -> None:
    first = start().until_ready()
    before = first.facts()
    assert before is not None
    with psycopg.connect(before["urls"]["postgres"], autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    first.interrupt()
    second = start().until_ready()
    after = second.facts()
    assert after is not None
    assert after["urls"] == before["urls"]
    with psycopg.connect(after["urls"]["postgres"]) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_port_in_use_is_said_with_the_way_out(start: Start, port: int) -> None:
    with closing(socket.create_server(("127.0.0.1", port))):
        run = start()
        assert run.exit_code() == 1
    assert f"error: port {port} is in use by" in run.output
    assert f"(process {os.getpid()})" in run.output
    assert f"make run PORT={port + 10}" in run.output


def test_a_second_run_in_the_same_checkout_is_refused_and_the_first_goes_on(start: Start, port: int) -> None:
    first = start().until_ready()
    second = start()
    assert second.exit_code() == 1
    assert f"already running (process {first.process.pid}) at http://127.0.0.1:{port}" in second.output
    assert "make stop" in second.output
    assert all(is_alive(pid) for pid in first.pids().values())


def test_stop_ends_a_run_from_elsewhere(start: Start, folder: Path) -> None:
    run = start().until_ready()
    assert stop(folder) == "Stopped."
    assert run.exit_code() == 0
    assert stop(folder) == "Nothing is running."


def test_stop_where_nothing_ever_ran_is_no_error(folder: Path) -> None:
    assert stop(folder) == "Nothing is running."


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_service_that_fails_at_the_start_ends_the_run_with_its_last_words(start: Start, name: str) -> None:
    run = start(**{name: "fails"})
    assert run.exit_code() == 1
    assert f"error: {name} exited with code 3, before everything was ready" in run.output
    assert f"  | {name} cannot go on: the reason" in run.output
    assert "postgres stopped" in run.output


def test_a_failed_migration_ends_the_run_with_its_output(start: Start) -> None:
    run = start(migrate="fails")
    assert run.exit_code() == 1
    assert "error: the migration exited with code 3" in run.output
    assert "  | migrate cannot go on: the reason" in run.output


def test_it_can_be_stopped_while_it_waits_for_a_service(start: Start) -> None:
    run = start(api="unready")
    run.until(lambda: "worker is ready" in run.output)
    family = descendants(run)
    assert run.interrupt() == 0
    assert not [process for process in family if is_alive(process.pid)]


def test_a_second_interrupt_does_not_wait_for_a_service_that_will_not_stop(start: Start) -> None:
    run = start(worker="stubborn").until_ready()
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: "api stopped" in run.output)
    began = time.monotonic()
    assert run.interrupt() == 0
    assert time.monotonic() - began < 10
    assert "postgres stopped" in run.output


@pytest.mark.parametrize("name", NAMES)
def test_a_part_that_is_killed_is_started_again(start: Start, name: str) -> None:
    run = start().until_ready()
    before = run.pids()
    os.kill(before[name], signal.SIGKILL)
    run.until(lambda: run.pids()[name] != before[name])
    assert f"{name} was killed by SIGKILL; starting it again" in run.output
    after = run.pids()
    assert is_alive(after[name])
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    assert run.interrupt() == 0


def test_a_part_that_dies_again_and_again_ends_the_run(start: Start) -> None:
    run = start(worker="brief")
    assert run.exit_code(timeout_seconds=60) == 1
    assert "error: worker exited with code 4, 4 times within 60 s" in run.output
    assert "postgres stopped" in run.output


def test_the_next_run_ends_what_a_killed_one_left(start: Start) -> None:
    first = start().until_ready()
    left = descendants(first)
    first.process.kill()
    first.process.wait()
    assert all(process.is_running() for process in left)
    second = start().until_ready()
    assert not [process for process in left if is_alive(process.pid)]
    for name in NAMES:
        assert f"ending the {name} that" in second.output or f"ended the {name} that" in second.output
    assert second.interrupt() == 0


def test_stop_ends_what_a_killed_run_left(start: Start, folder: Path) -> None:
    run = start().until_ready()
    left = descendants(run)
    run.process.kill()
    run.process.wait()
    assert stop(folder) == "Ended 4 processes that a killed run had left."
    assert not [process for process in left if is_alive(process.pid)]


def test_what_the_services_log_is_shown_behind_their_names(start: Start, port: int) -> None:
    run = start().until_ready()
    run.until(lambda: "Ready: " in run.output)
    time.sleep(0.2)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/hello").close()
    run.until(lambda: "api    | api was asked for /hello" in run.output)


def test_the_commands_to_try_are_the_readmes_for_this_port(start: Start, port: int) -> None:
    run = start().until_ready()
    run.until(lambda: "Ready: " in run.output)
    assert f" localhost:{port}/auth/register " in run.output
    assert "localhost:8000" not in run.output
