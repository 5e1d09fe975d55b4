"""The versions of every tool and schema, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hack.tools.golang import STRIP

KUBERNETES_SCHEMAS = ("1.30.14", "1.34.4", "1.37.2")
"""The oldest Kubernetes that the chart supports, the one that hostkube runs, and the newest one."""

MODULES = Path(__file__).resolve().parents[1] / "hostkube" / "gomod"


@dataclass(frozen=True)
class Tool:
    """A program: its package and version, and where it wants to be told its version at link time.

    `module` is a folder of ours whose go.mod pins what the program is made of. `tags` are Go's build tags, by comma.
    """

    name: str
    package: str
    version: str
    version_variable: str = ""
    version_text: str = ""
    module: Path | None = None
    tags: str = ""

    def recipe(self) -> str:
        tags = f"{self.tags}\n" if self.tags else ""
        return f"{self.package}@v{self.version}\n{self.link_flags()}\n{tags}"

    def link_flags(self) -> str:
        if not self.version_variable:
            return STRIP
        return f"{STRIP} -X {self.version_variable}={self.version_text or f'v{self.version}'}"


TOOLS = (
    Tool("helm", "helm.sh/helm/v4/cmd/helm", "4.3.1", "helm.sh/helm/v4/internal/version.version"),
    Tool("helm3", "helm.sh/helm/v3/cmd/helm", "3.22.0", "helm.sh/helm/v3/internal/version.version"),
    Tool("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "0.8.0", "main.version"),
    Tool("helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs", "1.14.2", "main.version"),
    Tool("kube-score", "github.com/zegl/kube-score/cmd/kube-score", "1.20.0", "main.version"),
    Tool(
        "kubectl",
        "k8s.io/kubernetes/cmd/kubectl",
        "1.34.4",
        "k8s.io/component-base/version.gitVersion",
        module=MODULES / "kubernetes",
    ),
    Tool("kind", "sigs.k8s.io/kind", "0.33.0"),
    Tool("actionlint", "github.com/rhysd/actionlint/cmd/actionlint", "1.7.12"),
    Tool("oasdiff", "github.com/oasdiff/oasdiff", "1.37.0", "github.com/oasdiff/oasdiff/build.Version"),
    Tool("versitygw", "github.com/versity/versitygw/cmd/versitygw", "1.8.0", "main.Version"),
    *(
        Tool(
            name,
            f"github.com/prometheus/prometheus/cmd/{name}",
            "0.316.0",
            "github.com/prometheus/common/version.Version",
            "3.16.0",
            # without the clients of two dozen clouds, which are most of the build
            tags="remove_all_sd,enable_kubernetes_sd",
        )
        for name in ("promtool", "prometheus")
    ),
)


@dataclass(frozen=True)
class CustomResources:
    """A module whose source has CustomResourceDefinitions, and where."""

    module: str
    version: str
    pattern: str


CUSTOM_RESOURCES = (
    CustomResources(
        "github.com/prometheus-operator/prometheus-operator",
        "0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_*.yaml",
    ),
    CustomResources("github.com/kedacore/keda/v2", "2.21.0", "config/crd/bases/*.yaml"),
    CustomResources("sigs.k8s.io/gateway-api", "1.6.3", "config/crd/standard/*.yaml"),
)
