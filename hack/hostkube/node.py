"""The node's first process: it runs in namespaces of its own, starts every component, and restarts what ends.

The kernel ends all processes of a PID namespace with its first one, and frees a mount or network namespace with its
last process. So however this process ends, no process, mount, route or firewall rule of the node stays behind.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from hack.hostkube import components
from hack.hostkube.cgroups import NODE_GROUP, join
from hack.hostkube.components import Component
from hack.hostkube.config import (
    HOST_ADDRESS,
    LINK,
    LINK_SUBNET,
    NODE_ADDRESS,
    POD_SUBNET,
    ROUTE_PROTOCOL,
    RUN,
    SERVICE_SUBNET,
    STATE,
)
from hack.tools.common import ToolError, run

# The node's view of its /run, see own_folders().
PROGRAMS = Path("/run/bin")
NODE_NETWORK = Path("/run/network")
COMPONENT_LOGS = Path("/run/logs")
COMPONENT_STATE = Path("/run/components.json")
API_TIMEOUT_SECONDS = 90.0
RESTART_PAUSE_SECONDS = 1.0

# The kubelet sets these for the whole machine. On the node, plain files with the values it wants stand in their place.
KUBELET_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


def launch(programs: Path) -> None:
    """Become the parent of a new node: join the node's control group, then enter new namespaces."""
    join(NODE_GROUP)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # Kubernetes' programs would look for each other behind the proxy
    namespaces = ("--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc")
    own_entry = (sys.executable, sys.argv[0], "_node", str(programs))
    os.execvp("unshare", ("unshare", *namespaces, *own_entry))  # noqa: S606


def serve(programs: Path) -> None:
    """The whole life of the node, as process 1 of its PID namespace."""
    own_folders(programs)
    supervisor = Supervisor()
    try:
        own_network()
        configure()
        supervisor.start(*components.FIRST)
        supervisor.wait_for_api()
        supervisor.start(*components.AFTER_API)
    except (ToolError, OSError) as error:
        supervisor.report("failed", str(error))
        raise
    supervisor.report("running")
    supervisor.watch()


def own_folders(programs: Path) -> None:
    """Give the node its own /run, /var/lib and /var/log, as a container would have."""
    for folder in (RUN / "bin", STATE / "log"):
        folder.mkdir()
    run(["mount", "--make-rshared", "/"])
    run(["mount", "--bind", programs, RUN / "bin"])
    for name, value in KUBELET_SYSCTLS.items():
        stand_in = RUN / "sysctl" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(f"{value}\n")
        run(["mount", "--bind", stand_in, Path("/proc/sys") / name])
    run(["mount", "--bind", STATE / "log", "/var/log"])
    run(["mount", "--bind", STATE, "/var/lib"])
    run(["mount", "--rbind", RUN, "/run"])


def own_network() -> None:
    """A network namespace that one link joins to this machine, and that has no way to anywhere else."""
    NODE_NETWORK.touch()
    run(["unshare", f"--net={NODE_NETWORK}", "true"])
    # The fallback comes first: at no time may packets for these addresses take the default route.
    for subnet in (SERVICE_SUBNET, POD_SUBNET, LINK_SUBNET):
        host_route = ("unreachable", subnet, "metric", "4096", "protocol", ROUTE_PROTOCOL)
        run(["ip", "route", "replace", *host_route])
    run(["ip", "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", NODE_NETWORK])
    run(["ip", "address", "add", f"{HOST_ADDRESS}/30", "dev", LINK])
    run(["ip", "link", "set", LINK, "up"])
    for command in (
        "ip link set lo up",
        f"ip address add {NODE_ADDRESS}/30 dev eth0",
        "ip link set eth0 up",
        "ip route add unreachable default",
        "sysctl --quiet --write net.ipv4.ip_forward=1",
        # An address that nobody has fails at once, however often it is tried.
        "sysctl --quiet --write net.ipv4.icmp_ratelimit=0",
    ):
        run([*inside_network(), *command.split()])
    for subnet in (SERVICE_SUBNET, POD_SUBNET):
        run(["ip", "route", "add", subnet, "via", NODE_ADDRESS, "dev", LINK, "protocol", ROUTE_PROTOCOL])


def inside_network() -> tuple[str, ...]:
    return ("nsenter", f"--net={NODE_NETWORK}", "--")


def configure() -> None:
    for path, text in components.config_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.environ["PATH"] = f"{PROGRAMS}:/usr/local/sbin:/usr/sbin:/sbin:{os.environ['PATH']}"
    settings = ("--config", components.CONFIG / "kubeadm.yaml")
    run(["kubeadm", "init", "phase", "certs", "all", *settings])
    for user in ("super-admin", "kubelet", "controller-manager", "scheduler"):
        folder = ("--kubeconfig-dir", components.KUBECONFIGS)
        run(["kubeadm", "init", "phase", "kubeconfig", user, *settings, *folder])


class Supervisor:
    """Starts programs, notices when one ends, starts it again, and writes down how they are."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.components: dict[str, Component] = {}
        self.restarts: dict[str, int] = {}
        self.phase = "starting"

    def start(self, *wanted: Component) -> None:
        for component in wanted:
            self.components[component.name] = component
            self.restarts.setdefault(component.name, -1)
            self.restarts[component.name] += 1
            prefix = inside_network() if component.in_node else ()
            log = COMPONENT_LOGS / f"{component.name}.log"
            with log.open("ab") as output:
                self.processes[component.name] = subprocess.Popen(
                    (*prefix, *component.command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        self.report(self.phase)

    def wait_for_api(self) -> None:
        trusted = ssl.create_default_context(cafile=str(components.PKI / "ca.crt"))
        deadline = time.monotonic() + API_TIMEOUT_SECONDS
        while not api_ready(trusted):
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise ToolError(f"{name} ended with status {process.returncode} right after its start")
            if time.monotonic() > deadline:
                raise ToolError(f"kube-apiserver was not ready after {API_TIMEOUT_SECONDS:.0f} s")
            time.sleep(0.1)

    def watch(self) -> None:
        """Collect ended processes for ever: orphans of the containers, and now and then a component."""
        while True:
            ended, status = os.waitpid(-1, 0)
            name = next((name for name, process in self.processes.items() if process.pid == ended), None)
            if name is None:
                continue
            print(
                f"{name} ended with status {os.waitstatus_to_exitcode(status)}: starting it again", flush=True
            )
            time.sleep(RESTART_PAUSE_SECONDS)
            self.start(self.components[name])

    def report(self, phase: str, error: str = "") -> None:
        self.phase = phase
        state = {"phase": phase, "error": error, "restarts": self.restarts}
        fresh = COMPONENT_STATE.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.rename(COMPONENT_STATE)


def api_ready(trusted: ssl.SSLContext) -> bool:
    with closing(HTTPSConnection(NODE_ADDRESS, 6443, timeout=2, context=trusted)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (HTTPException, OSError):
            return False
