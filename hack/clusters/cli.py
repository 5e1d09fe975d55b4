"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.clusters.programs import program, require
from hack.clusters.providers import PROVIDERS, Provider, choose
from hack.clusters.release import Release
from hack.tools.common import REPOSITORY, ToolError, run, say, step

DEFAULT_NAMESPACE = "scalable-fastapi-system"
E2E_NAMESPACE = "e2e"
E2E_VALUES = REPOSITORY / "tests" / "e2e" / "values.yaml"
E2E_MONITORING_VALUES = REPOSITORY / "tests" / "e2e" / "monitoring-values.yaml"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="cluster",
        description="A cluster on this machine, and the chart in it, installed as a user would.",
    )
    provider = argparse.ArgumentParser(add_help=False)
    provider.add_argument(
        "--provider",
        choices=("auto", *PROVIDERS),
        default=os.environ.get("CLUSTER_PROVIDER", "auto"),
        help="auto: kind where a Docker engine answers, else hostkube for root on Linux",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, parents=[provider])

    add("up", "start the cluster, or repair it")
    add("down", "remove the cluster and all that it left")
    add("load", "build both images and give them to the cluster")
    add("status", "tell how the cluster and the releases in it are")
    add("kubeconfig", "print the path of the kubeconfig")
    install = add("install", "build, load and install the chart, run `helm test`, print what to do next")
    install.add_argument("--namespace", default=DEFAULT_NAMESPACE)
    install.add_argument("--values", type=Path, action="append", default=[], help="further values")
    e2e = add("e2e", "start a cluster, install, run tests/e2e as a client would, remove the cluster")
    e2e.add_argument("--keep", action="store_true", help="leave the cluster as the tests left it")
    e2e.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    return top


def load(provider: Provider) -> list[str]:
    """Images into the cluster; the values that name them."""
    images = provider.images()
    provider.load(images.build())
    return [f"image.registry={images.registry}", f"image.tag={images.tag}"]


def install(provider: Provider, namespace: str, values: Sequence[Path]) -> Release:
    require("helm", "kubectl")
    settings = load(provider)
    release = Release(provider.kubeconfig, namespace)
    release.create_namespace()
    release.install([provider.values, *values], settings)
    release.test()
    return release


def e2e(provider: Provider, arguments: Sequence[str], *, keep: bool) -> int:
    pytest = REPOSITORY / ".venv" / "bin" / "pytest"
    if not pytest.exists():
        raise ToolError("there is no .venv to run the tests from", "run `make setup`")
    was_up = provider.is_up()
    try:
        provider.up()
        add_ons = provider.add_ons()
        values = [E2E_VALUES, *([E2E_MONITORING_VALUES] if "prometheus" in add_ons else [])]
        release = install(provider, E2E_NAMESPACE, values)
        environment = {
            **os.environ,
            "KUBECONFIG": str(provider.kubeconfig),
            "E2E_NAMESPACE": release.namespace,
            "E2E_RELEASE": release.name,
            "E2E_VALUES": str(provider.values),
            "E2E_ADD_ONS": ",".join(add_ons),
        }
        command = [str(pytest), *pytest_arguments(arguments)]
        say(f"-> {' '.join(['pytest', *command[1:]])}")
        status = os.spawnve(os.P_WAIT, pytest, command, environment)  # noqa: S606
    finally:
        if keep or was_up:
            say(f"the cluster is left as it is: export KUBECONFIG={provider.kubeconfig}")
        else:
            with step("remove the cluster"):
                provider.down()
    return status


def pytest_arguments(arguments: Sequence[str]) -> list[str]:
    """All of tests/e2e with these, unless they name some of it."""
    names_tests = any(one.startswith("tests/e2e/test_") for one in arguments)
    return [*([] if names_tests else ["tests/e2e"]), *arguments]


def status(provider: Provider) -> int:
    if not provider.is_up():
        say(f"{provider.name}: not up")
        return 1
    say(f"{provider.name}: up, export KUBECONFIG={provider.kubeconfig}")
    say(run([program("helm"), "--kubeconfig", provider.kubeconfig, "list", "--all-namespaces"]))
    say(run([program("kubectl"), "--kubeconfig", provider.kubeconfig, "get", "pods,hpa", "--all-namespaces"]))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    provider = choose(options.provider)
    if options.command == "kubeconfig":
        print(provider.kubeconfig)
        return 0
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if options.command == "up":
        provider.up()
    elif options.command == "down":
        provider.down()
    elif options.command == "load":
        say("\n".join(load(provider)))
    elif options.command == "status":
        return status(provider)
    elif options.command == "install":
        release = install(provider, options.namespace, options.values)
        say(release.notes())
        say(f"Before all that: export KUBECONFIG={provider.kubeconfig}")
    else:
        return e2e(provider, options.pytest, keep=options.keep)
    return 0
