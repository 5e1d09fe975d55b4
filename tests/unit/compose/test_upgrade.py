"""compose/upgrade, with a docker that only notes what it is asked for."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OLD = ("a" * 64, "b" * 64)
NEW = ("c" * 64, "d" * 64)
DOCKER = """#!/bin/sh
echo "$*" >>"$FOLDER/calls"
case "$*" in
*" ps --quiet api") cat "$FOLDER/running" ;;
*" ps --all "*) cat "$FOLDER/running" "$FOLDER/made" ;;
*" --scale api="*) exit "$UP" ;;
esac
"""


@dataclass
class Machine:
    """A folder with the script and the stand-ins."""

    folder: Path

    def upgrade(
        self, *, running: tuple[str, ...], made: tuple[str, ...] = (), up: int = 0
    ) -> tuple[int, str]:
        """Status and errors of the script where these containers run, and those are made by `up`, which ends so."""
        for name, lines in (("running", running), ("made", made)):
            (self.folder / name).write_text("".join(f"{line}\n" for line in lines))
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FOLDER": str(self.folder),
            "UP": str(up),
        }
        script = self.folder / "compose" / "upgrade"
        done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    def calls(self, what: str) -> list[str]:
        """What docker was asked for by this word."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if what in line.split()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name, content in (
        ("compose/upgrade", (ROOT / "compose" / "upgrade").read_text(encoding="utf-8")),
        ("bin/docker", DOCKER),
        ("bin/sleep", "#!/bin/sh\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    return Machine(tmp_path)


def test_the_old_containers_go_when_the_new_ones_are_healthy(machine: Machine) -> None:
    status, errors = machine.upgrade(running=OLD, made=NEW)
    assert (status, errors) == (0, "")
    assert any("--scale api=4" in call for call in machine.calls("up"))
    assert machine.calls("stop") == [f"stop {' '.join(OLD)}"]
    assert machine.calls("rm") == [f"rm {' '.join(OLD)}"]


def test_new_ones_that_do_not_get_healthy_are_shown_and_removed(machine: Machine) -> None:
    status, errors = machine.upgrade(running=OLD, made=NEW, up=1)
    assert (status, errors) == (
        1,
        "compose/upgrade: the new API does not get healthy; the old one goes on\n",
    )
    assert machine.calls("logs") == [f"logs --tail 20 {NEW[0]}"]
    assert machine.calls("rm") == [f"rm --force {' '.join(NEW)}"]
    assert not machine.calls("stop")


def test_where_none_could_be_made_nothing_is_removed_and_the_reason_is_told(machine: Machine) -> None:
    status, errors = machine.upgrade(running=OLD, up=1)
    assert (status, errors) == (
        1,
        "compose/upgrade: the new API does not get healthy; the old one goes on\n",
    )
    assert not machine.calls("rm")
    assert not machine.calls("stop")


def test_where_nothing_runs_everything_is_started(machine: Machine) -> None:
    assert machine.upgrade(running=()) == (0, "")
    assert len(machine.calls("up")) == 1
    assert not machine.calls("run")
