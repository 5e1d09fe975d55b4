"""hack/cluster: which cluster, which image, without having either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from hack.clusters import images, programs, providers
from hack.clusters.cli import E2E_VALUES, parser, pytest_arguments
from hack.clusters.providers import Hostkube, Kind, choose
from hack.tools.common import REPOSITORY, ToolError
from tests.integration.observability.observed import LIMITED_RATE, LIMITED_ROUTE, ROOM


@pytest.fixture
def sources(tmp_path):
    """A small tree like the repository's."""
    for name in (
        "requirements/api.txt",
        "requirements/worker.txt",
        "packages/p/m.py",
        "services/api/main.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("*")
    return tmp_path


def test_a_tag_changes_with_what_is_in_the_image_and_with_nothing_else(sources):
    first = images.content_tag(sources, "base")
    assert first.startswith("dev-")
    (sources / "docs").mkdir()
    (sources / "docs" / "a.md").write_text("x")
    (sources / "packages" / "p" / "__pycache__").mkdir()
    (sources / "packages" / "p" / "__pycache__" / "m.pyc").write_text("x")
    assert images.content_tag(sources, "base") == first
    assert images.content_tag(sources, "another base") != first
    (sources / "services" / "api" / "main.py").write_text("changed")
    assert images.content_tag(sources, "base") != first


def test_a_moved_file_is_another_content(sources):
    first = images.content_tag(sources, "base")
    (sources / "packages" / "p" / "m.py").rename(sources / "packages" / "p" / "n.py")
    assert images.content_tag(sources, "base") != first


def test_every_dockerfile_and_lock_file_counts():
    found = {path.relative_to(REPOSITORY).as_posix() for path in images.sources(REPOSITORY)}
    assert {
        ".dockerignore",
        "requirements/api.txt",
        "requirements/worker.txt",
        "services/api/Dockerfile",
        "services/worker/Dockerfile",
    } <= found
    assert not any("__pycache__" in name for name in found)


@pytest.fixture
def machine(monkeypatch):
    """A machine to choose a provider on."""

    def make(*, docker, system="Linux", user=0):
        monkeypatch.setattr(providers, "has_docker_engine", lambda: docker)
        monkeypatch.setattr(providers.platform, "system", lambda: system)
        monkeypatch.setattr(providers.os, "geteuid", lambda: user)

    return make


def test_kind_is_taken_where_an_engine_answers(machine):
    machine(docker=True)
    assert isinstance(choose("auto"), Kind)
    assert isinstance(choose("hostkube"), Hostkube)


def test_hostkube_is_taken_by_root_on_linux_without_an_engine(machine):
    machine(docker=False)
    assert isinstance(choose("auto"), Hostkube)
    assert isinstance(choose("kind"), Kind)


@pytest.mark.parametrize("place", [{"user": 1000}, {"system": "Darwin"}])
def test_elsewhere_it_is_said_what_is_missing(machine, place):
    machine(docker=False, **place)
    with pytest.raises(ToolError, match="no Docker engine answers") as caught:
        choose("auto")
    assert "root on Linux" in caught.value.hint


STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$FOLDER/calls"
case "$(basename "$0") $*" in
"kind get nodes "*) echo node-1 ;;
"docker inspect "*) echo null ;;
esac
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """A PATH with nothing of the machine's but sh's company, and programs that only note what they are asked for."""
    system = tmp_path / "system"
    system.mkdir()
    for name in ("sh", "bash", "env", "basename", "dirname", "sed"):
        (system / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{system}")
    monkeypatch.setattr(programs, "binaries", lambda: tmp_path / "none")
    monkeypatch.setattr(Kind, "kubeconfig", tmp_path / "kubeconfig")
    programs.program.cache_clear()

    def put(folder, *names):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text(STAND_IN)
            (folder / name).chmod(0o755)

    yield put
    programs.program.cache_clear()


def calls(folder):
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


@pytest.mark.parametrize("there", [("docker",), ("docker", "kind", "kubectl"), ("kind", "kubectl", "helm")])
def test_nothing_is_started_where_a_program_is_missing_and_cannot_be_had(
    stand_ins, tmp_path, monkeypatch, there
):
    def installer(command, **_more):
        raise ToolError(f"`go` is not on PATH: {command[1:]}")

    monkeypatch.setattr(programs, "run", installer)
    stand_ins(tmp_path / "path", *there)
    missing = [name for name in ("docker", "kind", "kubectl", "helm") if name not in there]
    with pytest.raises(ToolError) as caught:
        Kind().up()
    assert all(name in str(caught.value) for name in missing)
    assert calls(tmp_path) == []


def test_a_kind_that_is_in_the_cache_folder_alone_tells_the_nodes_to_the_registry(stand_ins, tmp_path):
    stand_ins(tmp_path / "path", "docker")
    stand_ins(tmp_path / "cache" / "scalable-fastapi-system" / "tools" / "bin", "kind", "kubectl", "helm")
    Kind().up()
    told = calls(tmp_path)
    assert told.index("kind get nodes --name scalable-fastapi-system") < told.index(
        "docker exec node-1 mkdir -p /etc/containerd/certs.d/localhost:5001"
    )


@pytest.mark.parametrize("provider", [Kind, Hostkube])
def test_a_provider_has_values_for_the_chart(provider):
    assert provider.values.is_file()
    assert Path(REPOSITORY / ".local") in provider.kubeconfig.parents


def test_arguments_for_pytest_go_through():
    options = parser().parse_args(["e2e", "--keep", "--", "-k", "scaling"])
    assert (options.keep, options.pytest) == (True, ["-k", "scaling"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["tests/e2e"]),
        (["-k", "compose"], ["tests/e2e", "-k", "compose"]),  # a folder here, and no tests
        (["-v", "tests/e2e/test_drain.py::test_a"], ["-v", "tests/e2e/test_drain.py::test_a"]),
    ],
)
def test_what_of_the_tests_is_run(arguments, expected):
    assert pytest_arguments(arguments) == expected


def test_the_installation_to_test_has_the_limits_that_the_load_for_its_dashboards_meets():
    settings = yaml.safe_load(E2E_VALUES.read_text())["config"]
    assert settings["API__MAX_EVENT_STREAMS"] == ROOM
    assert json.loads(settings["RATE_LIMIT__ROUTES"]) == {LIMITED_ROUTE: f"{LIMITED_RATE}/minute"}
