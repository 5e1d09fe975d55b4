"""Starting the node, looking at it, and giving it images."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hack.hostkube import cgroups
from hack.hostkube.archive import ARCHIVE_NAME
from hack.hostkube.build import require_binaries
from hack.hostkube.components import COMPONENT_NAMES
from hack.hostkube.config import (
    ADMIN_KUBECONFIG,
    API_PORT,
    COMPONENT_STATE,
    CONTAINERD_SOCKET,
    HERE,
    KUBECONFIG,
    LINK_SUBNET,
    LOGS,
    NODE_ADDRESS,
    NODE_NAME,
    POD_SUBNET,
    ROUTE_PROTOCOL,
    SERVICE_SUBNET,
    STATE,
    binaries,
)
from hack.hostkube.packages import missing_packages
from hack.hostkube.teardown import tear_down
from hack.tools.common import LOG_TAIL_LINES, REPOSITORY, ToolError, cache_root, run, say, step

NODE_LOG = "node"
NODE_OWN_FOLDERS = (Path("/run"), Path("/var/lib"), Path("/var/log"))
START_TIMEOUT_SECONDS = 120.0
REPAIR_SECONDS = 10.0

ADD_ONS = (
    ("kube-system", "coredns"),
    ("local-path-storage", "local-path-provisioner"),
    ("kube-system", "metrics-server"),
)


def require_root_on_linux() -> None:
    if platform.system() != "Linux":
        raise ToolError("hostkube runs on Linux only", "elsewhere use kind or a cluster of your own")
    if os.geteuid() != 0:
        raise ToolError(
            "hostkube has to be root: it makes namespaces, mounts and network links", "run it with sudo"
        )


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return run([binaries() / "kubectl", "--kubeconfig", KUBECONFIG, *arguments], stdin=stdin)


def node_state() -> dict[str, object]:
    """What the node's first process last wrote down; empty when there is no node."""
    try:
        state: dict[str, object] = json.loads(COMPONENT_STATE.read_text())
    except FileNotFoundError:
        return {}
    return state


def problems() -> list[str]:
    """What keeps the node from being healthy; an empty list is a healthy node."""
    if not cgroups.processes():
        return ["the node is not running"]
    state = node_state()
    if state.get("phase") != "running":
        return [f"the node is {state.get('phase', 'starting')}: {state.get('error', '')}"]
    if not KUBECONFIG.exists():
        return [f"{KUBECONFIG} is missing"]
    found = []
    try:
        kubectl("get", "--raw", "/readyz", "--request-timeout=5s")
        node = json.loads(kubectl("get", "node", NODE_NAME, "-o", "json"))
        ready = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
        if ready != ["True"]:
            found.append("the node is not Ready")
        for namespace, name in ADD_ONS:
            deployment = json.loads(kubectl("get", "deployment", "-n", namespace, name, "-o", "json"))
            if not deployment["status"].get("readyReplicas"):
                found.append(f"{name} is not ready")
    except ToolError as error:
        found.append(str(error))
    return found


def overlapping_routes(routes: Iterable[dict[str, str]]) -> list[str]:
    """Routes of this machine, as `ip -json route` lists them, that the node's addresses would collide with."""
    own = [ipaddress.ip_network(subnet) for subnet in (POD_SUBNET, SERVICE_SUBNET, LINK_SUBNET)]
    found = []
    for route in routes:
        if route["dst"] == "default" or route.get("protocol") == ROUTE_PROTOCOL:
            continue
        network = ipaddress.ip_network(route["dst"])
        if any(network.overlaps(subnet) for subnet in own):
            found.append(f"{route['dst']} dev {route.get('dev', '-')}")
    return found


def preflight() -> None:
    for needed in (REPOSITORY, binaries(), Path(sys.prefix)):
        if any(needed.is_relative_to(folder) for folder in NODE_OWN_FOLDERS):
            raise ToolError(
                f"{needed} is in a folder that the node has a version of its own of",
                f"move it out of {', '.join(map(str, NODE_OWN_FOLDERS))}",
            )
    if missing := missing_packages():
        raise ToolError(f"missing Debian packages: {' '.join(missing)}", "run `hostkube build`")
    if clashes := overlapping_routes(json.loads(run(["ip", "-4", "-json", "route", "show"]))):
        raise ToolError(
            f"this machine already has routes into the node's address ranges: {'; '.join(clashes)}",
            "stop whatever made them (another cluster or a VPN), or change the subnets in hack/hostkube/config.py",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", API_PORT))
        except OSError as error:
            raise ToolError(
                f"port {API_PORT} of 127.0.0.1 is in use",
                f"stop what uses it (`ss -ltnp 'sport = :{API_PORT}'`), or set HOSTKUBE_PORT to a free port",
            ) from error


def up() -> None:
    """Bring the node into the healthy state, from any state."""
    programs = require_binaries()
    if cgroups.processes() and (not problems() or wait_until(lambda: not problems(), REPAIR_SECONDS)):
        say("the node is already up and healthy")
        say(f"export KUBECONFIG={KUBECONFIG}")
        return
    if tear_down():
        say("removed what was left of an earlier node")
    preflight()
    started = time.monotonic()
    with step("start the node"):
        start_node(programs)
        load_archive(programs / ARCHIVE_NAME)
        wait_for_phase()
        write_kubeconfig()
        wait_for_node()
    with step("start DNS, storage and metrics"):
        kubectl("apply", "-f", str(HERE / "manifests"))
        for namespace, name in ADD_ONS:
            kubectl("rollout", "status", "deployment", "-n", namespace, name, "--timeout=120s")
        kubectl("wait", "apiservice", "v1beta1.metrics.k8s.io", "--for=condition=Available", "--timeout=60s")
    say(f"the node is up after {time.monotonic() - started:.1f} s")
    say(f"export KUBECONFIG={KUBECONFIG}")


def start_node(programs: Path) -> None:
    LOGS.mkdir(parents=True)
    STATE.mkdir(parents=True)
    entry = HERE / "hostkube"
    with (LOGS / f"{NODE_LOG}.log").open("wb") as output:
        subprocess.Popen(
            [sys.executable, entry, "_launch", programs],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
    wait_until(lambda: bool(cgroups.processes()), REPAIR_SECONDS)


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.1) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def wait_or_explain(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition while the node lives; when it fails, tell the reason rather than a time-out."""

    def settled() -> bool:
        return condition() or node_state().get("phase") == "failed" or not cgroups.processes()

    in_time = wait_until(settled, START_TIMEOUT_SECONDS)
    if in_time and condition():
        return
    reason = str(node_state().get("error") or tail(NODE_LOG) or "it did not come up in time")
    raise ToolError(
        f"{what} failed: {reason}", f"look at `hostkube logs COMPONENT` ({LOGS}), then `hostkube down`"
    )


def wait_for_phase() -> None:
    wait_or_explain(lambda: node_state().get("phase") == "running", "starting the control plane")


def wait_for_node() -> None:
    def ready() -> bool:
        template = '{.status.conditions[?(@.type=="Ready")].status}'
        try:
            return kubectl("get", "node", NODE_NAME, "-o", f"jsonpath={template}") == "True"
        except ToolError:
            return False

    wait_or_explain(ready, "registering the node")


def tail(component: str) -> str:
    log = LOGS / f"{component}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]) if log.exists() else ""


def write_kubeconfig() -> None:
    text = ADMIN_KUBECONFIG.read_text().replace(
        f"https://{NODE_ADDRESS}:6443", f"https://127.0.0.1:{API_PORT}"
    )
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text(text)


def containerd_ready() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(CONTAINERD_SOCKET)) == 0


def load_archive(archive: Path) -> None:
    wait_or_explain(containerd_ready, "starting containerd")
    run(["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import", archive])


def load_image(wanted: str) -> None:
    """Give the node an image from buildah's storage (NAME, or NAME=OTHER to rename it), or from a tar file."""
    if not containerd_ready():
        raise ToolError("the node is not running", "run `hostkube up`")
    if wanted.endswith((".tar", ".tar.gz")) and Path(wanted).is_file():
        with step(f"load {wanted}"):
            load_archive(Path(wanted))
        return
    source, _, target = wanted.partition("=")
    name = target or source
    with step(f"load {source} as {name}"), tempfile.TemporaryDirectory(dir=cache_root()) as folder:
        archive = Path(folder) / "image.tar"
        push = ["buildah", "push", "--quiet", source, f"docker-archive:{archive}:{name}"]
        run(push, hint="`buildah images` lists what is there; `hostkube images` makes the base images")
        load_archive(archive)


def status() -> bool:
    """Print how the node is; True when it is healthy."""
    found = problems()
    restarts = node_state().get("restarts")
    if isinstance(restarts, dict) and cgroups.processes():
        for name in COMPONENT_NAMES:
            if name in restarts:
                say(f"{name:<24} {'ok' if not restarts[name] else f'restarted {restarts[name]} times'}")
        say(f"{'kubeconfig':<24} {KUBECONFIG}")
    for problem in found:
        say(f"problem: {problem}")
    say("healthy" if not found else "not healthy")
    return not found
