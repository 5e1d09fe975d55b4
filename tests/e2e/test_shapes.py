"""Every shape in the chart's `ci` folder, installed for real: into a namespace that enforces `restricted`, with `helm test`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hack.clusters.release import CHART
from hack.tools.common import ToolError
from tests.e2e import stores
from tests.e2e.pods import api_image
from tests.e2e.system import System, until

pytestmark = pytest.mark.e2e

# small enough for all to find room beside the tested release
SMALL = {
    "api": {"resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}},
    "worker": {"resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}},
}
EMBEDDED_SMALL = {
    "postgres": {"resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}},
    "redis": {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
}


@dataclass(frozen=True)
class Shape:
    """What of a shape this cluster needs to be told otherwise, and what is to be there before."""

    values: Callable[[System], dict[str, Any]] = lambda _: {}
    needs: frozenset[str] = frozenset()
    has_stores: bool = False
    """Whether it wants stores of somebody else."""
    storage_class: str = ""
    """A class that it wants its volumes from."""


def external(_: System) -> dict[str, Any]:
    return {
        "postgres": {"external": {"url": stores.DATABASE_URL}},
        "redis": {"external": {"url": stores.REDIS_URL}},
        "storage": {"url": "database://"},
    }


def everything(tested: System) -> dict[str, Any]:
    server = ["python", "-m", "http.server", "15000", "--directory", "/tmp"]
    (sidecar,) = json_values("everything")["api"]["sidecars"]
    return {"api": {"sidecars": [{**sidecar, "image": api_image(tested), "command": server, "args": []}]}}


SHAPES = {
    "ephemeral": Shape(),
    "external": Shape(external, has_stores=True),
    "gitops": Shape(has_stores=True),
    "high-availability": Shape(has_stores=True, needs=frozenset({"gateway-api", "prometheus"})),
    "everything": Shape(
        everything, needs=frozenset({"gateway-api", "keda", "prometheus"}), storage_class="fast"
    ),
}


def json_values(shape: str) -> Any:
    import yaml

    return yaml.safe_load((CHART / "ci" / f"{shape}-values.yaml").read_text())


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Helm's way: maps are merged, all else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def test_every_shape_of_the_chart_is_here():
    found = {file.name.removesuffix("-values.yaml") for file in (CHART / "ci").glob("*-values.yaml")}
    assert found == {"default", *SHAPES}  # the tested release is the default


@pytest.fixture
def zone(system):
    """A node that says in which zone it is: the shape for production spreads over zones and takes no less."""
    (node, *_) = system.get("nodes")
    name, label = node["metadata"]["name"], "topology.kubernetes.io/zone"
    if label in node["metadata"]["labels"]:
        yield
        return
    system.kubectl("label", "node", name, f"{label}=zone-1")
    yield
    system.kubectl("label", "node", name, f"{label}-")


@pytest.fixture
def place(system, watched):
    """Makes a namespace for a shape; it is gone in the end."""
    made: list[System] = []

    def make(name: str) -> System:
        other = replace(system, namespace=f"{system.namespace}-{name}")
        made.append(other)
        watched.append(other)
        other.create_namespace()
        return other

    yield make
    for other in made:
        watched.remove(other)
        # one shape after the other: two cores have no room for more
        other.kubectl("delete", "namespace", other.namespace, "--timeout=300s")


def create_storage_class(system: System, name: str) -> None:
    """A class like the cluster's default one."""
    default = "storageclass.kubernetes.io/is-default-class"
    (like,) = [
        one
        for one in system.get("storageclasses")
        if one["metadata"].get("annotations", {}).get(default) == "true"
    ]
    kept = {"defaultVolumeType"} & like["metadata"]["annotations"].keys()
    annotations = {key: like["metadata"]["annotations"][key] for key in kept}
    system.kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps(
            {
                "apiVersion": like["apiVersion"],
                "kind": like["kind"],
                "metadata": {"name": name, "annotations": annotations},
                "provisioner": like["provisioner"],
                "volumeBindingMode": like["volumeBindingMode"],
            }
        ),
    )


@pytest.fixture
def make_storage_class(system):
    """Makes a storage class; it is gone in the end, after the volumes that came from it."""
    made: list[str] = []

    def make(name: str) -> None:
        made.append(name)
        create_storage_class(system, name)

    yield make
    until(lambda: not classes_with_volumes(system) & {*made}, 180, "the volumes are gone")
    for name in made:
        system.kubectl("delete", "storageclass", name)


def classes_with_volumes(system: System) -> set[str]:
    return {volume["spec"].get("storageClassName", "") for volume in system.get("persistentvolumes")}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_installs_and_passes_its_tests(
    system, add_ons, prometheus_if_there, make_storage_class, place, zone, tmp_path, name
):
    shape = SHAPES[name]
    if missing := shape.needs - add_ons:
        pytest.skip(f"not in this cluster: {', '.join(sorted(missing))}")
    release = place(name)
    theirs = json.loads(system.helm("get", "values", system.name, "--output", "json"))
    embedded = {} if shape.has_stores else EMBEDDED_SMALL
    images = {"image": theirs["image"]}
    values = tmp_path / "values.json"
    values.write_text(json.dumps(merged(merged(merged(SMALL, embedded), images), shape.values(system))))
    if shape.has_stores:
        stores.start(
            release,
            *(
                next(iter(system.pods(store)))["spec"]["containers"][0]["image"]
                for store in ("postgres", "redis")
            ),
        )
        stores.secrets_of_a_platform(release)
    if shape.storage_class:
        make_storage_class(shape.storage_class)

    release.install(
        [Path(os.environ["E2E_VALUES"]), CHART / "ci" / f"{name}-values.yaml", values], patience="300s"
    )
    release.test()

    fleets = (f"worker-{fleet}" for fleet in json_values(name).get("extraWorkers", {}))
    components = ("api", "worker", *fleets)
    for component in components:
        assert release.ready_pods(component)
        assert set(release.restarts(component).values()) == {0}
    if "keda" in shape.needs:
        scaled = f"scaledobject/{release.fullname}-worker"
        release.kubectl("wait", scaled, "--for=condition=Ready", "--timeout=120s")
    if "prometheus" in shape.needs:

        def scraped():
            pods = {pod for component in components for pod in release.ready_pods(component)}
            return prometheus_if_there.up(release) == dict.fromkeys(pods, "up")

        # where the policies name who reads metrics, that is so
        until(scraped, 180, "Prometheus scrapes every pod")
    claims = release.get("persistentvolumeclaims")
    assert bool(claims) == (not shape.has_stores and name != "ephemeral")
    if name == "ephemeral":
        lose_the_database(release)
        release.test()
        assert set(release.restarts("api").values()) == {0}


def lose_the_database(release: System) -> None:
    """The Postgres pod is replaced, its data with it. Returns when the new one has the schema."""
    (lost,) = (pod["metadata"]["name"] for pod in release.pods("postgres"))
    release.kubectl("delete", "pod", lost)
    manage = ("python", "-m", "services.manage", "migrate", "--check")

    def has_schema() -> bool:
        try:
            release.kubectl("exec", f"deployment/{release.fullname}-api", "--container", "api", "--", *manage)
        except ToolError:
            return False
        return True

    until(has_schema, 180, "the new database has the schema", pause=2)
