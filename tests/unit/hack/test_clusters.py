"""hack/cluster: which cluster, which image, without having either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hack.clusters import images, providers
from hack.clusters.cli import E2E_VALUES, parser
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


@pytest.mark.parametrize("provider", [Kind, Hostkube])
def test_a_provider_has_values_for_the_chart(provider):
    assert provider.values.is_file()
    assert Path(REPOSITORY / ".local") in provider.kubeconfig.parents


def test_arguments_for_pytest_go_through():
    options = parser().parse_args(["e2e", "--keep", "--", "-k", "scaling"])
    assert (options.keep, options.pytest) == (True, ["-k", "scaling"])


def test_the_installation_to_test_has_the_limits_that_the_load_for_its_dashboards_meets():
    settings = yaml.safe_load(E2E_VALUES.read_text())["config"]
    assert settings["API__MAX_EVENT_STREAMS"] == ROOM
    assert json.loads(settings["RATE_LIMIT__ROUTES"]) == {LIMITED_ROUTE: f"{LIMITED_RATE}/minute"}
