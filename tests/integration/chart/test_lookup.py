"""What the chart looks up in the cluster before an upgrade: Helm itself asks a small server that knows one autoscaler."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.unit.chart.helm import CHART, NAME, RenderError, helm

GROUP = "autoscaling/v2"
KIND = "HorizontalPodAutoscaler"
RESOURCE = {"name": "horizontalpodautoscalers", "kind": KIND, "namespaced": True, "verbs": ["get"]}
ANSWERS: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [{"name": "autoscaling", "versions": [{"groupVersion": GROUP, "version": "v2"}]}],
    },
    f"/apis/{GROUP}": {"kind": "APIResourceList", "groupVersion": GROUP, "resources": [RESOURCE]},
}


class Handler(BaseHTTPRequestHandler):
    scaler = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        answer = ANSWERS.get(path)
        if path == f"/apis/{GROUP}/namespaces/demo/horizontalpodautoscalers/{self.scaler}":
            answer = {"apiVersion": GROUP, "kind": KIND, "metadata": {"name": self.scaler}}
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        missing = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": "NotFound",
            "code": 404,
        }
        self.wfile.write(json.dumps(answer or missing).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def upgrade() -> Iterator[Callable[..., str]]:
    """Where an upgrade ends when the cluster has the one autoscaler of this name. It does not get beyond the render."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def refused(scaler: str, *arguments: str) -> str:
        Handler.scaler = scaler
        with pytest.raises(RenderError) as caught:
            helm(
                *("template", "sfs", str(CHART), "--namespace", "demo", "--is-upgrade", "--dry-run=server"),
                *("--kubeconfig", os.devnull, "--kube-apiserver", f"http://127.0.0.1:{server.server_port}"),
                *("--set=postgres.maxConnections=400", *arguments),
            )
        return str(caught.value)

    yield refused
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("component", "values"),
    [
        ("worker", "worker.autoscaling.type=keda"),
        ("worker-heavy", "extraWorkers.heavy.queues={heavy},extraWorkers.heavy.autoscaling.type=keda"),
    ],
)
def test_keda_does_not_take_over_from_an_autoscaler_that_is_still_there(upgrade, component, values):
    left = f"{NAME}-{component}"
    assert f"before the upgrade: kubectl -n demo delete hpa {left}\n" in upgrade(left, f"--set={values}")
    for rendered in (upgrade("another", f"--set={values}"), upgrade(left)):
        assert "unable to build kubernetes objects from release manifest" in rendered
