"""One installation of the chart: into a namespace that enforces the `restricted` standard, and what to look at when it fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.clusters.programs import program
from hack.tools.common import REPOSITORY, ToolError, run, say, step

CHART = REPOSITORY / "charts" / "scalable-fastapi-system"
PATIENCE = "10m"  # a cold node unpacks images and initialises a database on slow disks


@dataclass(frozen=True)
class Release:
    """A Helm release in a namespace of a cluster."""

    kubeconfig: Path
    namespace: str
    name: str = "scalable-fastapi-system"

    def helm(self, *arguments: str | Path) -> str:
        return run(
            [program("helm"), "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *arguments]
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        base: list[str | Path] = [program("kubectl"), "--kubeconfig", self.kubeconfig]
        base += ["--namespace", self.namespace]
        return run([*base, *arguments], stdin=stdin)

    def create_namespace(self) -> None:
        """A namespace where a pod that is not `restricted` is not admitted."""
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": labels},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def install(
        self, values: Sequence[Path], settings: Sequence[str] = (), *, patience: str = PATIENCE
    ) -> None:
        """Install or upgrade and wait until everything runs, for `patience` (like 300s) at most.

        Raises ToolError, after telling how the pods are.
        """
        arguments: list[str | Path] = [
            "upgrade",
            "--install",
            self.name,
            CHART,
            "--wait",
            "--timeout",
            patience,
        ]
        for file in values:
            arguments += ["--values", file]
        for setting in settings:
            arguments += ["--set-string", setting]
        try:
            with step(f"install {self.name} into {self.namespace}"):
                self.helm(*arguments)
        except ToolError:
            say(self.diagnosis())
            raise

    def test(self) -> None:
        """`helm test`. Raises ToolError, after telling how the pods are."""
        try:
            with step("helm test"):
                self.helm("test", self.name, "--timeout", "5m")
        except ToolError:
            say(self.diagnosis())
            raise

    def notes(self) -> str:
        return self.helm("get", "notes", self.name)

    def diagnosis(self) -> str:
        """How pods, events and logs are, for a reader who cannot look himself."""
        parts = [
            self._ask("get", "pods,jobs,hpa,pvc", "-o", "wide"),
            self._ask("get", "events", "--sort-by=.lastTimestamp"),
        ]
        for pod in self._ask("get", "pods", "-o", "name").splitlines():
            logs = self._ask("logs", pod, "--all-containers", "--prefix", "--tail=40", "--ignore-errors")
            parts.append(f"--- {pod}\n{logs}")
            before = self._ask("logs", pod, "--all-containers", "--prefix", "--tail=20", "--previous")
            if "error" not in before[:5]:
                parts.append(f"--- {pod}, before its restart\n{before}")
        return "\n".join(parts)

    def _ask(self, *arguments: str) -> str:
        try:
            return self.kubectl(*arguments)
        except ToolError as error:
            return f"error: {error}"
