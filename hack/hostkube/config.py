"""Every version, address and path of the node, in one place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hack.tools.common import REPOSITORY, cache_root

HERE = Path(__file__).resolve().parent

KUBERNETES_VERSION = "1.34.4"
COREDNS_VERSION = "1.14.7"
METRICS_SERVER_VERSION = "0.9.0"
LOCAL_PATH_VERSION = "0.0.30"
DEBIAN_RELEASE = "bookworm"

KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubeadm",
    "kubectl",
)

DEBIAN_PACKAGES = {
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "etcd-server": "/usr/bin/etcd",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iproute2": "/usr/sbin/ip",
    "iptables": "/usr/sbin/iptables",
    "socat": "/usr/bin/socat",
    "debootstrap": "/usr/sbin/debootstrap",
    "buildah": "/usr/bin/buildah",
    "busybox-static": "/usr/bin/busybox",
    "util-linux": "/usr/bin/unshare",
    "ca-certificates": "/usr/sbin/update-ca-certificates",
}
"""Debian package -> a file that shows that it is there."""

NODE_NAME = "hostkube"
POD_SUBNET = "10.244.0.0/16"
NODE_POD_SUBNET = "10.244.0.0/24"
SERVICE_SUBNET = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
LINK = "hostkube0"
LINK_SUBNET = "10.123.0.0/30"
HOST_ADDRESS = "10.123.0.1"
NODE_ADDRESS = "10.123.0.2"
ROUTE_PROTOCOL = "178"
"""A routing protocol number that nobody else uses: the mark by which the node's routes are found again."""

API_PORT = int(os.environ.get("HOSTKUBE_PORT", "6443"))
"""The port on 127.0.0.1 at which this machine reaches the API server."""

# On the node itself these two are /run and /var/lib.
RUN = Path("/run/hostkube")
STATE = Path("/var/lib/hostkube")
LOGS = RUN / "logs"
COMPONENT_STATE = RUN / "components.json"
CONTAINERD_SOCKET = RUN / "containerd" / "containerd.sock"
ADMIN_KUBECONFIG = RUN / "kubeconfigs" / "super-admin.conf"
CGROUP = "hostkube"
KUBECONFIG = REPOSITORY / ".local" / "hostkube" / "kubeconfig"


def recipe_hash(*parts: str | Path) -> str:
    """A short name for exactly these texts and files (a folder counts with everything in it)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(b"text\0" + part.encode())
            continue
        files = sorted(path for path in part.rglob("*") if path.is_file()) if part.is_dir() else [part]
        for file in files:
            digest.update(f"file\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def version_key() -> str:
    """The name of the cache folder for these versions and these build recipes."""
    versions = (KUBERNETES_VERSION, COREDNS_VERSION, METRICS_SERVER_VERSION, LOCAL_PATH_VERSION)
    modules = (HERE / "gomod" / name for name in ("kubernetes", "pause"))
    return f"v{KUBERNETES_VERSION}-{recipe_hash(*versions, *modules)}"


def binaries() -> Path:
    return cache_root() / "hostkube" / version_key()
