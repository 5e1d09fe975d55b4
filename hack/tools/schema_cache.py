"""`hack/tools/schemas`: the JSON schemas of Kubernetes and of the custom resources that the chart can use."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from hack.tools import openapi
from hack.tools.common import ToolError, cache_root, say, step, tell
from hack.tools.golang import download_module, finished_folder, only_one, require_go
from hack.tools.openapi import Schema
from hack.tools.pins import CUSTOM_RESOURCES, KUBERNETES_SCHEMAS, CustomResources

RECIPE_FILE = ".recipe"
CUSTOM_FOLDER = "custom"
DEFINITIONS_FOLDER = "definitions"
CUSTOM_LAYOUT = "{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"


def recipe(*pins: str) -> str:
    """What a folder of schemas was made from: these versions, by this code."""
    code = Path(openapi.__file__).read_bytes() + Path(__file__).read_bytes()
    digest = hashlib.sha256(code).hexdigest()[:12]
    return "\n".join([*pins, f"converter {digest}"])


def up_to_date(folder: Path, wanted: str) -> bool:
    stamp = folder / RECIPE_FILE
    return stamp.exists() and stamp.read_text() == wanted


def write(folder: Path, schemas: Iterable[tuple[str, Schema]]) -> int:
    count = 0
    for name, schema in schemas:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(schema, separators=(",", ":")))
        count += 1
    return count


def make_built_in(version: str, folder: Path) -> int:
    source = download_module("k8s.io/kubernetes", version)
    swagger = json.loads((source / "api" / "openapi-spec" / "swagger.json").read_text())
    return write(folder, openapi.built_in_schemas(swagger))


def load_manifests(text: str) -> Iterator[Schema]:
    try:
        import yaml
    except ImportError as error:
        raise ToolError(
            "PyYAML is not there for this Python",
            "run it with the project's own: .venv/bin/python hack/tools/schemas (`make setup` makes it)",
        ) from error

    class Loader(yaml.SafeLoader):
        """Reads a lone `=` as the text that it is; YAML 1.1 gave it a meaning that PyYAML does not know."""

    Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: str(node.value))
    for manifest in yaml.load_all(text, Loader):
        yield manifest or {}


def make_custom(resources: Iterable[CustomResources], folder: Path) -> int:
    """Schemas of custom resources, and beside them the definitions, to apply to a cluster."""
    definitions = folder / DEFINITIONS_FOLDER
    definitions.mkdir()
    count = 0
    for wanted in resources:
        source = download_module(wanted.module, wanted.version)
        files = sorted(source.glob(wanted.pattern))
        if not files:
            raise ToolError(
                f"{wanted.module} {wanted.version} has no {wanted.pattern}", "correct hack/tools/pins.py"
            )
        for file in files:
            text = file.read_text()
            made = sum(write(folder, openapi.custom_schemas(manifest)) for manifest in load_manifests(text))
            if made:
                definitions.joinpath(file.name).write_text(text)
            count += made
    return count


def refill(target: Path, wanted: str, title: str, make: Callable[[Path], int]) -> None:
    """Make a folder of schemas anew unless this very recipe made the one that is there."""
    if up_to_date(target, wanted):
        return
    require_go("the source of the schemas")
    shutil.rmtree(target, ignore_errors=True)
    with step(title), finished_folder(target) as folder:
        count = make(folder)
        (folder / RECIPE_FILE).write_text(wanted)
    tell(f"   {count} schemas in {target}")


def main() -> int:
    root = cache_root() / "schemas"
    with only_one("schemas", root):
        for version in KUBERNETES_SCHEMAS:
            refill(
                root / f"v{version}-standalone-strict",
                recipe(f"k8s.io/kubernetes {version}"),
                f"schemas of Kubernetes {version}",
                partial(make_built_in, version),
            )
        refill(
            root / CUSTOM_FOLDER,
            recipe(*(f"{one.module} {one.version}" for one in CUSTOM_RESOURCES)),
            "schemas of custom resources",
            partial(make_custom, CUSTOM_RESOURCES),
        )
    say(
        f"kubectl apply --server-side -f '{root}/{CUSTOM_FOLDER}/{DEFINITIONS_FOLDER}' defines the custom resources"
    )
    say(f"Kubernetes versions: {' '.join(KUBERNETES_SCHEMAS)}; use them with")
    say("kubeconform -strict -kubernetes-version VERSION \\")
    say(f"  -schema-location '{root}' \\")
    say(f"  -schema-location '{root}/{CUSTOM_FOLDER}/{CUSTOM_LAYOUT}'")
    return 0
