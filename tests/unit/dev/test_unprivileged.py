"""How Postgres is run by root. The checks of root's two ways need root; the others run for everyone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hack.dev import unprivileged
from hack.dev.errors import DevError
from hack.dev.unprivileged import run_as_for
from tests.support.stores import Stores

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="it is root who may not run Postgres")


@pytest.fixture
def open_folder(stores: Stores) -> Path:
    """A folder that every account may enter."""
    return stores.new_folder()


@pytest.fixture
def closed_folder(open_folder: Path) -> Path:
    """A folder that only its owner may enter, as /root is."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    return closed


def effective_user(folder: Path, program: Path) -> str:
    run_as = run_as_for(folder, program)
    result = run_as.run([program, "-c", "id -u; touch made && cat made && ls -A"], cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[0]


@pytest.fixture
def program(stores: Stores) -> Path:
    """A shell that takes `--version`, as servers do."""
    path = stores.new_folder() / "server"
    path.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nexec /bin/sh "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.geteuid() == 0, reason="for everyone but root")
def test_an_ordinary_user_runs_it_as_themselves(tmp_path: Path, program: Path) -> None:
    run_as = run_as_for(tmp_path / "data", program)
    assert run_as == unprivileged.RunAs()


@needs_root
def test_root_runs_it_as_nobody_who_owns_the_data(open_folder: Path, program: Path) -> None:
    data = open_folder / "data"
    assert effective_user(data, program) != "0"
    assert data.stat().st_uid != 0
    assert data.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_runs_it_in_a_user_namespace_where_nobody_may_not_enter(
    closed_folder: Path, program: Path
) -> None:
    data = closed_folder / "data"
    assert effective_user(data, program) != "0"
    assert data.stat().st_uid == 0
    assert (data / "made").stat().st_uid == 0


@needs_root
def test_the_program_in_a_namespace_has_no_capability(closed_folder: Path, program: Path) -> None:
    run_as = run_as_for(closed_folder / "data", program)
    result = run_as.run(["/bin/sh", "-c", "grep CapEff /proc/self/status"], cwd=closed_folder)
    assert int(result.stdout.split()[1], 16) == 0


@needs_root
def test_data_made_one_way_is_opened_that_way_again(open_folder: Path, program: Path) -> None:
    data = open_folder / "data"
    first = run_as_for(data, program)
    (data / "PG_VERSION").touch()
    assert run_as_for(data, program) == first
    os.chown(data, 0, 0)
    assert run_as_for(data, program).account is None


@needs_root
def test_a_system_that_allows_neither_way_is_told_what_to_do(
    closed_folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged, "USERNS_SCRIPT", _refusing_script(closed_folder))
    with pytest.raises(DevError, match="Operation not permitted") as caught:
        run_as_for(closed_folder / "data", program)
    assert "ordinary user" in caught.value.advice
    assert "/srv" in caught.value.advice


def _refusing_script(folder: Path) -> Path:
    path = folder / "userns.py"
    path.write_text("import sys\nsys.exit('userns: [Errno 1] Operation not permitted')\n")
    return path
