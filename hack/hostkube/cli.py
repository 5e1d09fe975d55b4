"""The command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hack.hostkube import cgroups, cluster, node, policyagent
from hack.hostkube.addons import ADD_ONS, build_add_ons, install_add_ons
from hack.hostkube.build import build
from hack.hostkube.components import COMPONENT_NAMES, NETWORK_POLICY_COMMAND
from hack.hostkube.config import KUBECONFIG, LOGS
from hack.hostkube.images import make_images
from hack.hostkube.teardown import tear_down
from hack.tools.common import ToolError, cache_root, say
from hack.tools.golang import only_one


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="hostkube",
        description="A real one-node Kubernetes on this machine, without Docker or a registry.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build the node's programs into the cache (once, some 15 minutes)")
    commands.add_parser(
        "images", help="make the base images python-base, postgres and redis (once, some 2 minutes)"
    )
    commands.add_parser("up", help="start the node, or repair it")
    addons = commands.add_parser(
        "addons", help="build (once, some 15 minutes) and start what is not there by default"
    )
    addons.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ADD_ONS)}; default: all")
    load = commands.add_parser(
        "load-image", help="give the node images from buildah's storage or from tar files"
    )
    load.add_argument("images", nargs="+", metavar="NAME[:TAG][=AS]|FILE.tar")
    commands.add_parser("status", help="tell how the node is; status 0 only when it is healthy")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    logs = commands.add_parser("logs", help="print the log of a component")
    logs.add_argument("component", choices=(cluster.NODE_LOG, *COMPONENT_NAMES))
    logs.add_argument("-f", "--follow", action="store_true")
    enter = commands.add_parser("enter", help="run a command (or a shell) inside the node, to look around")
    enter.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...")
    commands.add_parser("down", help="stop the node and remove every trace of it")
    for hidden in ("_launch", "_node"):
        commands.add_parser(hidden).add_argument("programs", type=Path)
    commands.add_parser(NETWORK_POLICY_COMMAND)
    return top


def show_logs(component: str, follow: bool) -> None:
    log = LOGS / f"{component}.log"
    if not log.exists():
        raise ToolError(f"there is no log of {component}: the node is not running", "run `hostkube up`")
    os.execvp("tail", ["tail", "-n", "+1", *(["-f"] if follow else []), str(log)])  # noqa: S606


def enter_node(words: list[str]) -> None:
    first = first_process()
    inside = ["nsenter", "--target", str(first), "--mount", "--pid", "--", *node.inside_network()]
    os.execvp("nsenter", [*inside, *(words or ["bash"])])  # noqa: S606


def first_process() -> int:
    """The id, as this machine sees it, of the process that is number 1 on the node."""
    for pid in sorted(cgroups.processes()):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:") and line.split()[2:] == ["1"]:
                return pid
    raise ToolError("the node is not running", "run `hostkube up`")


def main() -> int:
    options = parser().parse_args()
    command = options.command
    if command == "kubeconfig":
        print(KUBECONFIG)
        return 0
    cluster.require_root_on_linux()
    if command == "build":
        build()
    elif command == "images":
        with only_one("images", cache_root() / "hostkube"):
            make_images()
    elif command in ("up", "down"):
        with only_one("node", cache_root() / "hostkube"):
            if command == "up":
                cluster.up()
            else:
                say("the node is gone" if tear_down() else "there is no node")
    elif command == "addons":
        if unknown := [name for name in options.names if name not in ADD_ONS]:
            raise ToolError(f"no such add-on: {' '.join(unknown)}", f"there are: {', '.join(ADD_ONS)}")
        build_add_ons(options.names)
        with only_one("node", cache_root() / "hostkube"):
            install_add_ons(options.names)
    elif command == "load-image":
        for name in options.images:
            cluster.load_image(name)
    elif command == "status":
        return 0 if cluster.status() else 1
    elif command == "logs":
        show_logs(options.component, options.follow)
    elif command == "enter":
        enter_node(options.words)
    elif command == "_launch":
        node.launch(options.programs)
    elif command == NETWORK_POLICY_COMMAND:
        policyagent.serve()
    else:
        node.serve(options.programs)
    return 0
