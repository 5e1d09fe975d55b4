"""skaffold.yaml: every path, image, value and port in it exists in the Dockerfiles, the chart and the cluster's files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.unit.chart.helm import CHART, REPOSITORY, Rendered, container, helm, render

SKAFFOLD = yaml.safe_load((REPOSITORY / "skaffold.yaml").read_text())
ARTIFACTS = {artifact["image"]: artifact for artifact in SKAFFOLD["build"]["artifacts"]}
(RELEASE,) = SKAFFOLD["deploy"]["helm"]["releases"]
REGISTRY = "localhost:5001"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def sanitized(image):
    """An image's name as skaffold writes it in the names of its variables."""
    return re.sub(r"[/\-.:]", "_", image)


def values_of_a_build(tag="0a1b2c"):
    """What skaffold gives helm after a build of both images."""
    variables = {}
    for image in ARTIFACTS:
        variables[f"IMAGE_REPO_{sanitized(image)}"] = image
        variables[f"IMAGE_TAG_{sanitized(image)}"] = tag
        variables[f"IMAGE_DIGEST_{sanitized(image)}"] = DIGEST
    return {
        key: re.sub(r"\{\{\.(\w+)\}\}", lambda found: variables[found[1]], template)
        for key, template in RELEASE["setValueTemplates"].items()
    }


@pytest.fixture(scope="module")
def deployed():
    """The chart as skaffold installs it."""
    arguments = [
        "template",
        RELEASE["name"],
        str(REPOSITORY / RELEASE["chartPath"]),
        "--namespace",
        RELEASE["namespace"],
    ]
    for file in RELEASE["valuesFiles"]:
        arguments += ["--values", str(REPOSITORY / file)]
    for key, value in values_of_a_build().items():
        arguments += ["--set", f"{key}={value}"]
    text = helm(*arguments)
    return Rendered(tuple(found for found in yaml.safe_load_all(text) if found), text)


def find(rendered, kind, name):
    (found,) = [
        item for item in rendered.kind(kind) if item["metadata"]["name"] == f"{RELEASE['name']}-{name}"
    ]
    return found


def instructions(artifact, word):
    text = (REPOSITORY / artifact["context"] / artifact["docker"]["dockerfile"]).read_text()
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(f"{word} ")]


def test_the_version_of_the_format_is_one_that_is_published():
    assert SKAFFOLD["apiVersion"] == "skaffold/v4beta13"
    assert set(SKAFFOLD) == {"apiVersion", "kind", "metadata", "build", "deploy", "portForward"}


def test_both_images_are_built_from_dockerfiles_that_exist():
    assert set(ARTIFACTS) == {f"{REGISTRY}/scalable-fastapi-system/{name}" for name in ("api", "worker")}
    for artifact in ARTIFACTS.values():
        assert (REPOSITORY / artifact["context"] / artifact["docker"]["dockerfile"]).is_file()


def test_the_images_go_into_the_registry_beside_the_cluster():
    script = (REPOSITORY / "k8s" / "kind" / "registry").read_text()
    assert f"port={REGISTRY.rpartition(':')[2]} " in script
    assert (
        yaml.safe_load((REPOSITORY / "k8s" / "kind" / "values.yaml").read_text())["image"]["registry"]
        == REGISTRY
    )


def test_every_build_argument_is_one_that_the_dockerfile_takes():
    for artifact in ARTIFACTS.values():
        taken = {argument.partition("=")[0] for argument in instructions(artifact, "ARG")}
        assert set(artifact["docker"]["buildArgs"]) <= taken


def test_the_user_of_the_containers_owns_what_is_copied_in(deployed):
    for image, artifact in ARTIFACTS.items():
        name = image.rpartition("/")[2]
        pod = find(deployed, "Deployment", name)["spec"]["template"]
        assert artifact["docker"]["buildArgs"]["APP_OWNER"] == str(
            pod["spec"]["securityContext"]["runAsUser"]
        )
        assert container(pod, name)["securityContext"]["readOnlyRootFilesystem"] is False


def test_a_copied_source_lands_where_the_image_has_it():
    for artifact in ARTIFACTS.values():
        (home,) = set(instructions(artifact, "WORKDIR"))
        copied = {line.split()[0] for line in instructions(artifact, "COPY") if not line.startswith("--from")}
        for rule in artifact["sync"]["manual"]:
            assert rule["dest"] == home
            folder = rule["src"].partition("/")[0]
            assert folder in copied
            assert list(REPOSITORY.glob(rule["src"])), rule["src"]


def test_every_source_of_the_image_is_copied_when_it_changes():
    for artifact in ARTIFACTS.values():
        copied = {path for rule in artifact["sync"]["manual"] for path in REPOSITORY.glob(rule["src"])}
        assert copied == {
            path for folder in ("packages", "services") for path in (REPOSITORY / folder).rglob("*.py")
        }


def test_the_reloader_watches_what_is_copied_and_the_pods_run_it(deployed):
    source = (REPOSITORY / "services" / "reload.py").read_text()
    folders = re.search(r"^FOLDERS = \((.*)\)$", source, re.MULTILINE)[1].replace('"', "").split(", ")
    for image, artifact in ARTIFACTS.items():
        assert {rule["src"].partition("/")[0] for rule in artifact["sync"]["manual"]} == set(folders)
        name = image.rpartition("/")[2]
        command = container(find(deployed, "Deployment", name)["spec"]["template"], name)["command"]
        assert command[:3] == ["python", "-m", "services.reload"]
        # what it runs is what production runs
        assert command[3:] == yaml.safe_load(instructions(artifact, "CMD")[-1])


def test_every_value_that_is_set_exists_in_the_chart():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for key in values_of_a_build():
        node = values
        for part in key.split("."):
            assert part in node, key
            node = node[part]
    for file in RELEASE["valuesFiles"]:
        assert (REPOSITORY / file).is_file()  # and the schema refuses what is not a value: `deployed` renders


def test_pods_run_exactly_the_image_that_was_built(deployed):
    for image in ARTIFACTS:
        name = image.rpartition("/")[2]
        pod = find(deployed, "Deployment", name)["spec"]["template"]
        assert container(pod, name)["image"] == f"{image}:0a1b2c@{DIGEST}"


def test_a_build_makes_another_migration_job(deployed):
    (job,) = deployed.kind("Job")
    (other,) = render(
        "default", values_of_a_build("another"), files=(REPOSITORY / RELEASE["valuesFiles"][0],)
    ).kind("Job")
    assert job["metadata"]["name"].rpartition("-")[2] != other["metadata"]["name"].rpartition("-")[2]


def test_the_forwarded_ports_are_those_of_the_services(deployed):
    for forward in SKAFFOLD["portForward"]:
        (service,) = [
            item for item in deployed.kind("Service") if item["metadata"]["name"] == forward["resourceName"]
        ]
        assert forward["port"] in {port["port"] for port in service["spec"]["ports"]}
        assert forward["namespace"] == RELEASE["namespace"]
    assert [forward["localPort"] for forward in SKAFFOLD["portForward"]] == [8000, 8001]


def test_the_image_exposes_the_port_of_its_container(deployed):
    for image, artifact in ARTIFACTS.items():
        name = image.rpartition("/")[2]
        pod = find(deployed, "Deployment", name)["spec"]["template"]
        ports = [str(port["containerPort"]) for port in container(pod, name)["ports"]]
        assert instructions(artifact, "EXPOSE") == ports


def test_paths_in_its_comments_exist():
    text = (REPOSITORY / "skaffold.yaml").read_text()
    for path in re.findall(r"\b((?:hack|k8s|docs|services)/[\w./-]+\w)", text):
        assert Path(REPOSITORY / path).exists(), path
