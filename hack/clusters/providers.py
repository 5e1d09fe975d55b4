"""Where a cluster comes from: kind beside a Docker engine, or hostkube on Linux as root without one."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hack.clusters.images import Images
from hack.clusters.programs import answers, program, require
from hack.hostkube.addons import ADD_ONS
from hack.hostkube.config import CONTAINERD_SOCKET, KUBECONFIG
from hack.hostkube.images import POSTGRES_IMAGE, PYTHON_IMAGE, REDIS_IMAGE
from hack.tools.common import REPOSITORY, ToolError, run, say, step

KIND_NAME = "scalable-fastapi-system"
KIND_REGISTRY = "localhost:5001"
PROVIDERS = ("kind", "hostkube")


class Provider(Protocol):
    """A cluster that can be had on this machine."""

    name: str
    kubeconfig: Path
    values: Path
    """What the chart has to be told about this cluster."""

    def up(self) -> None:
        """Bring the cluster into the healthy state, from any state."""

    def down(self) -> None:
        """Remove it and everything that it left."""

    def is_up(self) -> bool:
        """Whether it answers."""

    def images(self) -> Images:
        """The images as this cluster is to be given them."""

    def load(self, names: Sequence[str]) -> None:
        """Give the cluster images."""

    def add_ons(self) -> tuple[str, ...]:
        """Start what only some tests need; what is there."""


class Hostkube:
    """hack/hostkube: a Kubernetes of this machine's own processes."""

    name = "hostkube"
    kubeconfig = KUBECONFIG
    values = REPOSITORY / "k8s" / "hostkube" / "values.yaml"

    def __init__(self) -> None:
        self._program = REPOSITORY / "hack" / "hostkube" / "hostkube"

    def up(self) -> None:
        # These talk for minutes on a cold cache: what they say is shown as it comes.
        for command in ("build", "images", "up"):
            self._say(command)

    def down(self) -> None:
        self._say("down")

    def is_up(self) -> bool:
        return answers(self._program, "status")

    def images(self) -> Images:
        return Images("buildah", "localhost", PYTHON_IMAGE)

    def load(self, names: Sequence[str]) -> None:
        there = run(
            ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "list", "--quiet"]
        )
        # ours are named by their content, and the stores' are remade only by `hostkube images`
        missing = [name for name in (*names, POSTGRES_IMAGE, REDIS_IMAGE) if name not in there.split()]
        if missing:
            self._say("load-image", *missing)

    def add_ons(self) -> tuple[str, ...]:
        self._say("addons", *ADD_ONS)
        return tuple(ADD_ONS)

    def _say(self, *arguments: str) -> None:
        status = os.spawnv(os.P_WAIT, self._program, [str(self._program), *arguments])  # noqa: S606
        if status != 0:
            raise ToolError(f"`hostkube {' '.join(arguments)}` ended with status {status}")


class Kind:
    """kind: Kubernetes in containers, with a registry beside it that keeps images across clusters."""

    name = "kind"
    kubeconfig = REPOSITORY / ".local" / "kind" / "kubeconfig"
    values = REPOSITORY / "k8s" / "kind" / "values.yaml"

    def up(self) -> None:
        # helm, too, which only an installation needs: it is what nearly always follows
        require("docker", "kind", "kubectl", "helm")
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        with step("start the registry"):
            run([REPOSITORY / "k8s" / "kind" / "registry", "up"])
        if KIND_NAME not in run([program("kind"), "get", "clusters"]).split():
            with step(f"create the kind cluster {KIND_NAME}"):
                run([program("kind"), "create", "cluster", "--name", KIND_NAME, "--wait", "180s",
                     "--config", REPOSITORY / "k8s" / "kind" / "cluster.yaml", "--kubeconfig", self.kubeconfig])  # fmt: skip
        else:
            run(
                [
                    program("kind"),
                    "export",
                    "kubeconfig",
                    "--name",
                    KIND_NAME,
                    "--kubeconfig",
                    self.kubeconfig,
                ]
            )
        with step("connect the registry, start metrics-server"):
            # which asks kind for its nodes, and that may be in the cache folder alone
            path = os.pathsep.join([str(Path(program("kind")).parent), os.environ.get("PATH", "")])
            run([REPOSITORY / "k8s" / "kind" / "registry", "connect", KIND_NAME], env={"PATH": path})
            kubectl = [program("kubectl"), "--kubeconfig", str(self.kubeconfig)]
            run([*kubectl, "apply", "-f", str(REPOSITORY / "k8s" / "kind" / "manifests")])
            run(
                [
                    *kubectl,
                    "rollout",
                    "status",
                    "-n",
                    "kube-system",
                    "deployment/metrics-server",
                    "--timeout=180s",
                ]
            )
        say(f"export KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        run([program("kind"), "delete", "cluster", "--name", KIND_NAME, "--kubeconfig", self.kubeconfig])
        run([REPOSITORY / "k8s" / "kind" / "registry", "down"])
        say("the cluster is gone")

    def is_up(self) -> bool:
        return self.kubeconfig.exists() and answers(
            program("kubectl"), "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz"
        )

    def images(self) -> Images:
        return Images("docker", KIND_REGISTRY)

    def load(self, names: Sequence[str]) -> None:
        # by the registry and not by `kind load`, which fails beside Docker's containerd store (kind#3795)
        for name in names:
            with step(f"push {name}"):
                run([program("docker"), "push", name])

    def add_ons(self) -> tuple[str, ...]:
        say("KEDA, Prometheus and the Gateway API are built for hostkube only: what needs them is skipped")
        return ()


def choose(wanted: str) -> Provider:
    """The provider of that name; `auto`: kind where a Docker engine answers, else hostkube for root on Linux."""
    if wanted == "hostkube":
        return Hostkube()
    if wanted == "kind" or (wanted == "auto" and has_docker_engine()):
        return Kind()
    if platform.system() == "Linux" and os.geteuid() == 0:
        return Hostkube()
    raise ToolError(
        "there is no way to a cluster here: no Docker engine answers (`docker info`), and hostkube needs root on Linux",
        "start Docker, or run this as root on Linux, or install the chart into a cluster of your own (docs/chart.md)",
    )


def has_docker_engine() -> bool:
    """Whether an engine answers, and not only the client."""
    if not answers("docker", "info", "--format", "{{json .}}"):
        return False
    information = json.loads(run(["docker", "info", "--format", "{{json .}}"]))
    return bool(information.get("ServerVersion"))
