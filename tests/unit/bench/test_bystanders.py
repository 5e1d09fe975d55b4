"""Which requests other programs of the machine disturbed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from tests.bench import bystanders


def test_a_run_disturbs_as_long_again_as_it_took() -> None:
    assert bystanders.disturbances([(5.0, 5.25)]) == [(5.0, 5.5)]


def test_looks_in_a_row_are_one_run() -> None:
    looks = [(5.0, 5.25), (5.25, 5.5), (5.501, 5.75), (7.0, 7.25)]

    assert bystanders.disturbances(looks) == [(5.0, 6.5), (7.0, 7.5)]


def test_a_request_is_left_out_for_when_it_was_under_way_and_not_for_being_slow() -> None:
    runs = [(5.0, 5.01)]  # disturbs until 5.02
    answers = [
        (4.0, 0.5),  # slow, and ended before
        (4.995, 0.01),  # under way as it began
        (5.015, 0.001),  # sent while others caught up
        (5.021, 0.2),  # after it
        (4.9, 1.0),  # all around it
    ]

    assert bystanders.undisturbed(answers, runs) == [0.5, 0.2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_that_runs_is_found_and_seen_running_and_ours_is_not_looked_at() -> None:
    turns = "import time\nwhile True:\n    end = time.perf_counter() + 0.02\n    while time.perf_counter() < end: pass\n    time.sleep(0.2)"
    # By a shell of its own session, as a supervisor would be: our own family is not looked at.
    with subprocess.Popen(
        ["setsid", "--fork", sys.executable, "-c", f"import os; print(os.getpid(), flush=True)\n{turns}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        try:
            found = bystanders.find([os.getpid()], seconds=1.0)
            assert any(account.startswith(f"/proc/{pid}/") for account in found)
            assert not any(
                account.startswith(f"/proc/{pid}/") for account in bystanders.find([pid], seconds=0.5)
            )

            account = [account for account in found if account.startswith(f"/proc/{pid}/")]
            seen = bystanders.watch(bystanders.Plan(account, 1.0))
        finally:
            os.kill(pid, 9)

    runs = bystanders.disturbances(seen["runs"])
    # On a loaded machine one turn of it is several runs: what lies apart as its pauses do is counted.
    pauses = sum(later[0] - earlier[0] > 0.1 for earlier, later in itertools.pairwise(runs))
    assert 1 <= pauses <= 6
    assert all(seen["began"] - 0.1 < start < end for start, end in runs)
