"""Keeps the packet filter of the node in step with the cluster's NetworkPolicies."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

from hack.hostkube.components import KUBECONFIGS, PKI
from hack.hostkube.config import NODE_ADDRESS
from hack.hostkube.netpolicy import CHAIN, Cluster, Json, ruleset
from hack.tools.common import ToolError, run

PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"

FAILURES = (ToolError, HTTPException, OSError)

WATCH_SECONDS = 300
SETTLE_SECONDS = 0.05
RETRY_SECONDS = 1.0

# The mangle table's hooks come before those of the filter table, where kube-proxy accepts what it translated.
HOOKS = ("FORWARD", "INPUT")


def client_context(kubeconfig: Path) -> ssl.SSLContext:
    """The credentials of a kubeconfig; Python reads certificates from files only."""
    text = kubeconfig.read_text()
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    files = []
    for field in ("client-certificate-data", "client-key-data"):
        found = re.search(rf"{field}: (\S+)", text)
        if not found:
            raise ToolError(f"{kubeconfig} has no {field}")
        file = kubeconfig.with_name(f"network-policy.{field}.pem")
        file.touch(mode=0o600)
        file.write_bytes(base64.b64decode(found.group(1)))
        files.append(str(file))
    context.load_cert_chain(*files)
    return context


class Agent:
    """Watches everything that policies depend on, and writes the rules anew after each change."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.changed = threading.Event()
        self.applied = ""

    @contextmanager
    def get(self, path: str, timeout: float) -> Iterator[HTTPResponse]:
        connection = HTTPSConnection(NODE_ADDRESS, 6443, timeout=timeout, context=self.context)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise ToolError(f"GET {path}: {answer.status} {answer.reason}")
            yield answer

    def list(self, path: str) -> list[Json]:
        with self.get(path, timeout=10) as answer:
            items: list[Json] = json.load(answer)["items"]
        return items

    def watch(self, path: str) -> None:
        """Take any event for a change; a watch without a version begins with all that exists."""
        while True:
            try:
                watching = f"{path}?watch=true&timeoutSeconds={WATCH_SECONDS}"
                with self.get(watching, timeout=WATCH_SECONDS + 10) as events:
                    for _ in events:
                        self.changed.set()
            except FAILURES:
                time.sleep(RETRY_SECONDS)

    def apply(self) -> None:
        cluster = Cluster.of(self.list(PODS), self.list(NAMESPACES), self.list(POLICIES))
        wanted = ruleset(cluster)
        if wanted == self.applied:
            return
        run(["iptables-restore", "--noflush"], stdin=ruleset(cluster, existing_chains()))
        self.applied = wanted
        print(f"{len(cluster.policies)} policies, {wanted.count(' -j DROP')} chains", flush=True)

    def serve(self) -> None:
        for path in (PODS, NAMESPACES, POLICIES):
            threading.Thread(target=self.watch, args=(path,), daemon=True).start()
        while True:
            self.changed.wait()
            time.sleep(SETTLE_SECONDS)
            self.changed.clear()
            try:
                self.apply()
            except FAILURES as error:
                print(f"trying again: {error}", flush=True)
                self.changed.set()
                time.sleep(RETRY_SECONDS)


def existing_chains() -> list[str]:
    return re.findall(rf"^:({CHAIN}-\S+)", run(["iptables-save", "-t", "mangle"]), re.MULTILINE)


def hook_in() -> None:
    run(["iptables-restore", "--noflush"], stdin=f"*mangle\n:{CHAIN} - [0:0]\nCOMMIT\n")
    present = run(["iptables-save", "-t", "mangle"])
    for hook in HOOKS:
        if f"-A {hook} -j {CHAIN}\n" not in present:
            run(["iptables", "-t", "mangle", "-A", hook, "-j", CHAIN])


def serve() -> None:
    hook_in()
    Agent(client_context(KUBECONFIGS / "super-admin.conf")).serve()
