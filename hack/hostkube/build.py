"""The node's programs, built from Go modules into the cache."""

from __future__ import annotations

from pathlib import Path

from hack.hostkube.archive import ARCHIVE_NAME, system_images, write_archive
from hack.hostkube.config import (
    COREDNS_VERSION,
    HERE,
    KUBERNETES_PROGRAMS,
    KUBERNETES_VERSION,
    LOCAL_PATH_VERSION,
    METRICS_SERVER_VERSION,
    binaries,
)
from hack.hostkube.packages import ensure_packages
from hack.tools.common import ToolError, say, step
from hack.tools.golang import STRIP, finished_folder, go_build, go_install, only_one, require_go

INSTALLED = (
    ("github.com/coredns/coredns", COREDNS_VERSION),
    ("sigs.k8s.io/metrics-server/cmd/metrics-server", METRICS_SERVER_VERSION),
    ("github.com/rancher/local-path-provisioner", LOCAL_PATH_VERSION),
)


def kubernetes_flags() -> str:
    """What Kubernetes' own build writes into its programs: without it they call themselves v0.0.0."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    return " ".join([STRIP, *(f"-X k8s.io/component-base/version.{name}={v}" for name, v in values.items())])


def build() -> Path:
    """Make sure that all programs are in the cache; with nothing to do this takes no time."""
    ensure_packages()
    target = binaries()
    with only_one("build", target.parent):
        if not target.is_dir():
            require_go("Kubernetes")
            say(
                f"Kubernetes {KUBERNETES_VERSION} and its add-ons are built from source: some 15 minutes, once"
            )
            build_all(target)
    say(f"programs: {target}")
    return target


def build_all(target: Path) -> None:
    with finished_folder(target) as folder:
        for name in KUBERNETES_PROGRAMS:
            with step(f"build {name} {KUBERNETES_VERSION}"):
                package = f"k8s.io/kubernetes/cmd/{name}"
                go_build(HERE / "gomod" / "kubernetes", package, folder / name, kubernetes_flags())
        for package, version in INSTALLED:
            with step(f"build {Path(package).name} {version}"):
                go_install(package, version, folder)
        with step("build pause"):
            go_build(HERE / "gomod" / "pause", ".", folder / "pause")
        with step("pack the images of the system's own pods"):
            write_archive(folder / ARCHIVE_NAME, system_images(folder))


def require_binaries() -> Path:
    folder = binaries()
    if not folder.is_dir():
        raise ToolError("the node's programs are not built", "run `hostkube build` (some 15 minutes, once)")
    return folder
