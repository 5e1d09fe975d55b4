"""The custom metrics API from a Prometheus, run inside a pod: `python custom_metrics_api.py PROMETHEUS RULE CERTIFICATE`.

It stands in for prometheus-adapter, of which it does the part that one rule of pods needs, with the rule as it is written for
that: which series there are, for which pods, by which query. It answers whoever the API server sends. Needs the standard
library alone, and an account that may list pods.
"""

from __future__ import annotations

import json
import re
import ssl
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

PORT = 6443
GROUP = "custom.metrics.k8s.io/v1beta1"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PROMETHEUS, RULE, CERTIFICATE = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
LABELS = {entry["resource"]: label for label, entry in RULE["resources"]["overrides"].items()}
VALUES = re.compile(rf"^/apis/{GROUP}/namespaces/([^/]+)/pods/([^/]+)/([^/]+)$")


def prometheus(path: str, **parameters: str) -> Any:
    with urlopen(f"{PROMETHEUS}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
        return json.load(answer)["data"]


def pods(namespace: str, selector: str) -> list[str]:
    url = f"https://kubernetes.default.svc/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector)}"
    request = Request(url, headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"})
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urlopen(request, timeout=10, context=context) as answer:
        return [item["metadata"]["name"] for item in json.load(answer)["items"]]


def resources() -> dict[str, Any]:
    """What there is to ask for: the series that the rule finds."""
    series = prometheus("series", **{"match[]": RULE["seriesQuery"]})
    found = [
        {"name": f"pods/{name}", "namespaced": True, "kind": "MetricValueList", "verbs": ["get"]}
        for name in sorted({one["__name__"] for one in series})
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": found}


def values(namespace: str, name: str, series: str, selector: str) -> dict[str, Any]:
    """The value of each pod that has one."""
    names = pods(namespace, selector) if name == "*" else [name]
    query = RULE["metricsQuery"]
    for field, text in {
        "Series": series,
        "LabelMatchers": f'{LABELS["pod"]}=~"{"|".join(names)}",{LABELS["namespace"]}="{namespace}"',
        "GroupBy": LABELS["pod"],
    }.items():
        query = query.replace(f"<<.{field}>>", text)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {
            "describedObject": {
                "kind": "Pod",
                "namespace": namespace,
                "name": one["metric"][LABELS["pod"]],
                "apiVersion": "/v1",
            },
            "metricName": series,
            "timestamp": now,
            "value": f"{round(float(one['value'][1]) * 1000)}m",
            "selector": None,
        }
        for one in prometheus("query", query=query)["result"]
    ]
    return {"kind": "MetricValueList", "apiVersion": GROUP, "metadata": {}, "items": items}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        path = unquote(asked.path)  # the autoscaler's client writes * as %2A
        try:
            if path == f"/apis/{GROUP}":
                self.answer(200, resources())
            elif found := VALUES.match(path):
                selector = parse_qs(asked.query).get("labelSelector", [""])[0]
                self.answer(200, values(*found.groups(), selector))
            else:
                self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404})
        except OSError as error:
            message = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": 503,
                "message": str(error),
            }
            self.answer(503, message)

    def answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main() -> None:
    server = ThreadingHTTPServer(("", PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


main()
