"""What the node is given only when asked: KEDA, prometheus-operator with a Prometheus, the resources of the Gateway API."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.hostkube.archive import ProgramImage, write_archive
from hack.hostkube.cluster import kubectl, load_archive, problems
from hack.hostkube.config import HERE, recipe_hash
from hack.tools.common import REPOSITORY, ToolError, cache_root, run, step
from hack.tools.golang import STRIP, download_module, finished_folder, go_build, only_one, require_go
from hack.tools.pins import CUSTOM_RESOURCES, TOOLS, CustomResources

IMAGES = "images.tar"
DEFINITIONS = "definitions"
READY_TIMEOUT = "300s"
KEDA_MODULE = "github.com/kedacore/keda/v2"
OPERATOR_MODULE = "github.com/prometheus-operator/prometheus-operator"
GATEWAY_MODULE = "sigs.k8s.io/gateway-api"
CERTIFICATE_DAYS = 3650


def resources_of(module: str) -> CustomResources:
    (found,) = [one for one in CUSTOM_RESOURCES if one.module == module]
    return found


KEDA_VERSION = resources_of(KEDA_MODULE).version
OPERATOR_VERSION = resources_of(OPERATOR_MODULE).version
PROMETHEUS = next(tool for tool in TOOLS if tool.name == "prometheus")


def image(name: str, version: str, program: Path) -> ProgramImage:
    return ProgramImage(f"localhost/hostkube/{name}:{version}", program)


def build_keda(folder: Path) -> list[ProgramImage]:
    """KEDA's module has its own pins: it is built where Go keeps its source."""
    source = download_module(KEDA_MODULE, KEDA_VERSION)
    flags = f"{STRIP} -X {KEDA_MODULE}/version.Version={KEDA_VERSION}"
    images = []
    for package, name in (("operator", "keda"), ("adapter", "keda-metrics-apiserver")):
        with step(f"build {name} {KEDA_VERSION}"):
            go_build(source, f"./cmd/{package}", folder / name, flags)
        images.append(image(name, KEDA_VERSION, folder / name))
    return images


def build_prometheus(folder: Path) -> list[ProgramImage]:
    """The operator has replace lines, so a go.mod of ours builds it; Prometheus itself is one of the tools."""
    images = []
    for package, name in (
        ("operator", "prometheus-operator"),
        ("prometheus-config-reloader", "prometheus-config-reloader"),
    ):
        with step(f"build {name} {OPERATOR_VERSION}"):
            go_build(
                HERE / "gomod" / "prometheus-operator", f"{OPERATOR_MODULE}/cmd/{package}", folder / name
            )
        images.append(image(name, OPERATOR_VERSION, folder / name))
    with step(f"build prometheus {PROMETHEUS.version_text}"):
        tools = Path(run([REPOSITORY / "hack" / "tools" / "install", PROMETHEUS.name]).strip())
    shutil.copy(tools / PROMETHEUS.name, folder)
    return [*images, image("prometheus", PROMETHEUS.version_text, folder / PROMETHEUS.name)]


def keda_certificate() -> str:
    """The Secret with which KEDA's two programs trust each other. KEDA could make it, but then waits a minute to see it."""
    names = [
        f"{service}.keda.{domain}"
        for service in ("keda-operator", "keda-metrics-apiserver")
        for domain in ("svc", "svc.cluster.local")
    ]
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "tls.key"), Path(folder, "tls.crt")
        command: list[str | Path] = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-nodes",
            "-subj",
            "/CN=keda",
        ]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-days", str(CERTIFICATE_DAYS)]
        command += ["-addext", f"subjectAltName={','.join(f'DNS:{name}' for name in names)}"]
        run([*command, "-keyout", key, "-out", certificate])
        data = {
            name: base64.b64encode(path.read_bytes()).decode()
            for name, path in (("ca.crt", certificate), ("tls.crt", certificate), ("tls.key", key))
        }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kedaorg-certs", "namespace": "keda"},
        "data": data,
    }
    return json.dumps(secret)


def prepare_keda() -> None:
    if not kubectl("get", "secret", "--namespace", "keda", "kedaorg-certs", "--ignore-not-found"):
        kubectl("apply", "-f", "-", stdin=keda_certificate())


def wait_for_keda() -> None:
    service = ("apiservice", "v1beta1.external.metrics.k8s.io")
    kubectl("wait", *service, "--for=condition=Available", "--timeout", READY_TIMEOUT)


def wait_for_prometheus() -> None:
    where = ("--namespace", "monitoring", "--timeout", READY_TIMEOUT)
    kubectl("wait", "prometheus", "hostkube", "--for=condition=Available", *where)


@dataclass(frozen=True)
class Running:
    """Programs that run: how they are built, where they are, what they need before and what shows that they work."""

    namespace: str
    deployments: tuple[str, ...]
    build: Callable[[Path], list[ProgramImage]]
    wait: Callable[[], None]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class AddOn:
    """Custom resources and, where they are to be acted on, the programs that do."""

    name: str
    resources: CustomResources
    recipe: tuple[str | Path, ...]
    running: Running | None = None

    @property
    def manifest(self) -> Path:
        return HERE / "manifests" / "addons" / f"{self.name}.yaml"

    def folder(self) -> Path:
        """Where it is in the cache once it is built."""
        return cache_root() / "hostkube" / "addons" / f"{self.name}-{recipe_hash(*self.recipe)}"


ADD_ONS = {
    one.name: one
    for one in (
        AddOn("gateway-api", resources_of(GATEWAY_MODULE), (resources_of(GATEWAY_MODULE).version,)),
        AddOn(
            "prometheus",
            resources_of(OPERATOR_MODULE),
            (OPERATOR_VERSION, PROMETHEUS.recipe(), HERE / "gomod" / "prometheus-operator"),
            Running("monitoring", ("prometheus-operator",), build_prometheus, wait_for_prometheus),
        ),
        AddOn(
            "keda",
            resources_of(KEDA_MODULE),
            (KEDA_VERSION,),
            Running(
                "keda", ("keda-operator", "keda-metrics-apiserver"), build_keda, wait_for_keda, prepare_keda
            ),
        ),
    )
}


def build_add_ons(names: Sequence[str]) -> None:
    """Make sure that their images and custom resources are in the cache; no name means all."""
    for name in names or ADD_ONS:
        build_add_on(ADD_ONS[name])


def build_add_on(add_on: AddOn) -> None:
    target = add_on.folder()
    with only_one(f"addon-{add_on.name}", target.parent):
        if target.is_dir():
            return
        require_go(add_on.name)
        with finished_folder(target) as folder, tempfile.TemporaryDirectory(dir=target.parent) as programs:
            if add_on.running:
                write_archive(folder / IMAGES, add_on.running.build(Path(programs)))
            definitions = folder / DEFINITIONS
            definitions.mkdir()
            source = download_module(add_on.resources.module, add_on.resources.version)
            for file in sorted(source.glob(add_on.resources.pattern)):
                # the Gateway API has policies beside them
                if "\nkind: CustomResourceDefinition\n" in file.read_text():
                    shutil.copyfile(file, definitions / file.name)


def install_add_on(add_on: AddOn) -> None:
    folder = add_on.folder()
    with step(f"start {add_on.name}"):
        # the definitions are too large for the annotation that a client-side apply writes
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder / DEFINITIONS))
        kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(folder / DEFINITIONS))
        if running := add_on.running:
            load_archive(folder / IMAGES)
            create_namespace(running.namespace)
            running.prepare()
            kubectl("apply", "-f", str(add_on.manifest))
            for name in running.deployments:
                where = ("--namespace", running.namespace, "--timeout", READY_TIMEOUT)
                kubectl("rollout", "status", f"deployment/{name}", *where)
            running.wait()


def create_namespace(name: str) -> None:
    """A namespace where a pod that is not `restricted` is not admitted."""
    metadata = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    kubectl("apply", "-f", "-", stdin=json.dumps(namespace))


def install_add_ons(names: Sequence[str]) -> None:
    """Start what is built on the node; no name means all. Installing again changes nothing."""
    if found := problems():
        raise ToolError(f"the node is not healthy: {'; '.join(found)}", "run `hostkube up`")
    for name in names or ADD_ONS:
        install_add_on(ADD_ONS[name])
