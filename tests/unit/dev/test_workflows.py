"""The GitHub workflows: pinned, least permissions, and their shell steps tried here on copies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.dev.layout import REPOSITORY

FOLDER = REPOSITORY / ".github" / "workflows"
WORKFLOWS = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
CHART = REPOSITORY / "charts" / "scalable-fastapi-system"
MAKEFILE = (REPOSITORY / "Makefile").read_text()
PIN = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(WORKFLOWS[name].read_text())
    return loaded


def steps(name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(job, step) for job, body in workflow(name)["jobs"].items() for step in body["steps"]]


def step(name: str, job: str, words: str) -> str:
    (found,) = [body["run"] for owner, body in steps(name) if owner == job and words in body.get("name", "")]
    return str(found)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_a_commit_and_names_its_version(name: str) -> None:
    used = re.findall(r"^\s*(?:- )?uses: (.+)$", WORKFLOWS[name].read_text(), re.MULTILINE)
    assert used
    for reference in used:
        assert PIN.match(reference), reference


def test_an_action_has_one_pin_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS.values():
        for action, commit in re.findall(r"uses: ([\w./-]+)@(\S+ # \S+)", path.read_text()):
            pins.setdefault(action, set()).add(commit)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_permitted_but_what_a_job_asks_for(name: str) -> None:
    loaded = workflow(name)
    assert loaded["permissions"] == {}
    for job in loaded["jobs"].values():
        assert job["timeout-minutes"] <= 60
        allowed = {"contents": "read"}
        if name == "release":
            allowed |= {"packages": "write", "id-token": "write"}
        assert job["permissions"].items() <= allowed.items()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_checkouts_keep_no_credentials_and_no_shell_reads_an_expression(name: str) -> None:
    for _, body in steps(name):
        if body.get("uses", "").startswith("actions/checkout@"):
            assert body["with"]["persist-credentials"] is False
        assert "${{" not in body.get("run", ""), "pass it by env: an expression is pasted into the script"


def test_pull_requests_do_what_make_does() -> None:
    commands = {body["run"] for _, body in steps("ci") if "run" in body}
    targets = {command.split()[1] for command in commands if command.startswith("make ")}
    assert targets == {"check", "test", "e2e"}
    assert all(f"\n{target}:" in MAKEFILE for target in targets)


def test_every_supported_python_is_tried() -> None:
    assert workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def run_versions(tmp_path: Path, tag: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "charts" / CHART.name).mkdir(parents=True)
    shutil.copy(CHART / "Chart.yaml", tmp_path / "charts" / CHART.name)
    environment = {
        "PATH": os.environ["PATH"],
        "GITHUB_REF_NAME": tag,
        "GITHUB_REPOSITORY": "Some-Owner/Some-Repository",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    script = step("release", "versions", "Hold the tag")
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_tag_must_be_the_charts_version(tmp_path: Path) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    done = run_versions(tmp_path, f"v{version}")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "output").read_text().splitlines() == [
        f"version={version}",
        "registry=ghcr.io/some-owner/some-repository",
    ]


def test_another_tag_is_refused_with_what_differs(tmp_path: Path) -> None:
    done = run_versions(tmp_path, "v99.0.0")
    assert done.returncode == 1
    assert "the tag says 99.0.0, Chart.yaml says version:" in done.stdout


def test_the_published_chart_names_the_images_of_its_release(tmp_path: Path) -> None:
    script = step("release", "chart", "Package")
    (edit,) = re.findall(r"sed -i .*?values\.yaml", script, re.DOTALL)
    target = tmp_path / "charts" / CHART.name / "values.yaml"
    target.parent.mkdir(parents=True)
    shutil.copy(CHART / "values.yaml", target)
    subprocess.run(
        ["bash", "-ec", edit],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "REGISTRY": "ghcr.io/owner/repository"},
        check=True,
    )
    before, after = yaml.safe_load((CHART / "values.yaml").read_text()), yaml.safe_load(target.read_text())
    before["image"]["registry"] = "ghcr.io/owner/repository"
    before["api"]["image"]["repository"] = "api"
    before["worker"]["image"]["repository"] = "worker"
    assert after == before
