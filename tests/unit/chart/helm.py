"""Rendering the chart for tests: `render(...)` gives the objects as Kubernetes would get them.

A test that needs helm is skipped only where helm is not installed, and says how to install it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
CHART = REPOSITORY / "charts" / "scalable-fastapi-system"
SHAPES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
RELEASE = "sfs"
NAME = f"{RELEASE}-scalable-fastapi-system"

Object = dict[str, Any]


class _StrictLoader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key given twice is a mistake, not a choice."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if repeated := {key for key in keys if keys.count(key) > 1}:
        raise yaml.constructor.ConstructorError(None, None, f"given twice: {repeated}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


class RenderError(Exception):
    """Helm refused to render; the text is what a user would read."""


@dataclass(frozen=True)
class Rendered:
    """The objects of one render."""

    objects: tuple[Object, ...]
    text: str

    def kind(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """The object of this kind whose name ends in `name`; there must be exactly one."""
        found = [item for item in self.kind(kind) if item["metadata"]["name"] == f"{NAME}{name}"]
        assert len(found) == 1, (
            f"{kind} {NAME}{name}: {[item['metadata']['name'] for item in self.kind(kind)]}"
        )
        return found[0]

    def names(self) -> set[str]:
        """`Kind/suffix` of every object, with the hash of the migration's Job left out."""
        result = set()
        for item in self.objects:
            name = item["metadata"]["name"].removeprefix(NAME)
            result.add(f"{item['kind']}/{'-migrate-#' if name.startswith('-migrate-') else name}")
        return result

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Every pod template, and pods themselves: (`Kind/name`, {"metadata", "spec"})."""
        for item in self.objects:
            label = f"{item['kind']}/{item['metadata']['name'].removeprefix(NAME)}"
            if item["kind"] == "Pod":
                yield label, item
            elif item["kind"] == "CronJob":
                yield label, item["spec"]["jobTemplate"]["spec"]["template"]
            elif "template" in item.get("spec", {}):
                yield label, item["spec"]["template"]

    def pod(self, kind: str, name: str) -> Object:
        spec = self.one(kind, name)["spec"]
        template: Object = (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]
        return template

    def secret(self, name: str) -> dict[str, str]:
        data = self.one("Secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def container(pod: Object, name: str) -> Object:
    (found,) = [item for item in containers(pod) if item["name"] == name]
    return found


def plain_environment(pod: Object, name: str, rendered: Rendered) -> dict[str, str]:
    """What a container's environment would be, with the Secrets of the render filled in and $(VAR) expanded."""
    spec = container(pod, name)
    result: dict[str, str] = {}
    for source in spec.get("envFrom", []):
        if "configMapRef" in source:
            result |= rendered.one("ConfigMap", source["configMapRef"]["name"].removeprefix(NAME))["data"]
        elif source["secretRef"]["name"].startswith(NAME):
            result |= rendered.secret(source["secretRef"]["name"].removeprefix(NAME))
    for entry in spec["env"]:
        reference = entry.get("valueFrom", {}).get("secretKeyRef")
        if reference is not None and reference["name"].startswith(NAME):
            result[entry["name"]] = rendered.secret(reference["name"].removeprefix(NAME))[reference["key"]]
        elif "value" in entry:
            value = entry["value"]
            for known, text in result.items():
                value = value.replace(f"$({known})", text)
            result[entry["name"]] = value
    return result


@cache
def helm_program() -> str:
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scalable-fastapi-system"
    found = os.environ.get("HELM") or shutil.which(
        "helm", path=f"{cache_root / 'tools' / 'bin'}:{os.environ['PATH']}"
    )
    if not found:
        pytest.skip(
            "helm is not installed: hack/tools/install puts it into the cache folder", allow_module_level=True
        )
    return found


def helm(*arguments: str) -> str:
    """Run helm with a fixed environment. Raises RenderError with what it said."""
    done = subprocess.run(
        [helm_program(), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"},
    )
    if done.returncode != 0:
        raise RenderError(done.stderr)
    return done.stdout


def shape_file(shape: str) -> Path:
    return CHART / "ci" / f"{shape}-values.yaml"


def render(
    shape: str = "default",
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    extra: Sequence[str] = (),
) -> Rendered:
    """The chart in one of its shapes, with further values on top. Raises RenderError where helm refuses."""
    return _render(shape, json.dumps(values or {}), tuple(files), tuple(extra))


@cache
def _render(shape: str, values: str, files: tuple[Path, ...], extra: tuple[str, ...]) -> Rendered:
    arguments = ["template", RELEASE, str(CHART), "--namespace", "demo", "--values", str(shape_file(shape))]
    for file in files:
        arguments += ["--values", str(file)]
    for key, value in json.loads(values).items():
        arguments += ["--set-json", f"{key}={json.dumps(value)}"]
    text = helm(*arguments, *extra)
    documents = yaml.load_all(text, Loader=_StrictLoader)
    return Rendered(tuple(document for document in documents if document), text)
