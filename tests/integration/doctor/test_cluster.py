"""What the doctor says of a cluster, asked over HTTPS as a pod asks: an API server that answers from a table."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scalable_fastapi_system.doctor.cluster_checks import matches

MONITORING = "/apis/monitoring.coreos.com/v1"
OURS = "app.kubernetes.io/instance%3Dsfs"
TOKEN = "token-of-the-doctor"


def certificate(folder):
    """A certificate for 127.0.0.1 that signs itself: key and certificate in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.crt").write_bytes(public)
    (folder / "server.pem").write_bytes(private + public)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """What the API server answers, by path: an object, or a status alone. What is not there is 404."""
    folder = tmp_path / "account"
    folder.mkdir()
    certificate(folder)
    (folder / "token").write_text(TOKEN)
    (folder / "namespace").write_text("demo\n")
    answers: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path, 404)
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                answer = 401
            status, body = (answer, {}) if isinstance(answer, int) else (200, answer)
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    monkeypatch.setattr("scalable_fastapi_system.doctor.command.ACCOUNT_FOLDER", folder)
    answers["/version"] = {"gitVersion": "v1.34.4"}
    yield answers
    server.shutdown()
    server.server_close()


def resources(*names):
    return {"resources": [{"name": name} for name in names]}


def items(*objects):
    return {"items": list(objects)}


def named(name, **rest):
    metadata = {"name": name, **rest.pop("metadata", {})}
    return {"metadata": metadata, **rest}


@pytest.fixture
def monitored(cluster):
    """prometheus-operator, one Prometheus that wants `release: monitoring`, and our two objects without that label."""
    cluster[MONITORING] = resources("servicemonitors", "prometheusrules", "prometheuses")
    cluster["/api/v1/namespaces/demo"] = named("demo", metadata={"labels": {"team": "a"}})
    cluster[f"{MONITORING}/prometheuses"] = items(
        named(
            "main",
            metadata={"namespace": "monitoring"},
            spec={
                "serviceMonitorSelector": {"matchLabels": {"release": "monitoring"}},
                "serviceMonitorNamespaceSelector": {},
                "ruleSelector": {},
            },
        )
    )
    for kind in ("servicemonitors", "prometheusrules"):
        cluster[f"{MONITORING}/namespaces/demo/{kind}?labelSelector={OURS}"] = items(named("sfs-api"))
    return cluster


def ours(cluster, kind, **labels):
    cluster[f"{MONITORING}/namespaces/demo/{kind}?labelSelector={OURS}"] = items(
        named("sfs-api", metadata={"labels": labels})
    )


def test_apis_that_are_expected_and_missing_are_told(ask, cluster):
    cluster["/apis/metrics.k8s.io/v1beta1"] = 503
    answer = ask(
        *("--release", "sfs", "--expect", "metrics", "--expect", "servicemonitor", "--expect", "scaledobject")
    )
    problems = answer.of("cluster", "problem")
    assert "the metrics API, and what serves it does not answer (503" in problems
    assert "no ServiceMonitor (monitoring.coreos.com/v1)" in problems
    assert "worker.autoscaling.type=cpu" in problems
    assert answer.code == 1


def test_apis_that_are_there_are_no_problem(ask, cluster):
    cluster["/apis/metrics.k8s.io/v1beta1"] = resources("nodes", "pods")
    cluster["/apis/keda.sh/v1alpha1"] = resources("scaledobjects")
    answer = ask("--release", "sfs", "--expect", "metrics", "--expect", "scaledobject")
    assert answer.problems == []
    assert "Kubernetes v1.34.4 answers" in answer.of("cluster", "ok")
    assert "The cluster has ScaledObject" in answer.of("cluster", "ok")


def test_a_custom_metric_that_nobody_serves_is_told_also_where_others_are(ask, cluster):
    expected = ("--release", "sfs", "--expect", "requests-in-flight")
    assert "api.autoscaling.targetRequestsInFlight" in ask(*expected).of("cluster", "problem")
    cluster["/apis/custom.metrics.k8s.io/v1beta1"] = resources("pods/packets_per_second")
    assert "custom metric http_requests_inprogress" in ask(*expected).of("cluster", "problem")
    cluster["/apis/custom.metrics.k8s.io/v1beta1"] = resources("pods/http_requests_inprogress")
    assert ask(*expected).problems == []


def test_labels_that_no_prometheus_selects_are_told_with_the_ones_that_it_wants(ask, monitored):
    answer = ask("--release", "sfs", "--expect", "servicemonitor")
    problem = answer.of("cluster", "problem")
    assert '{"matchLabels": {"release": "monitoring"}}' in problem
    assert "monitoring.serviceMonitor.labels" in problem
    ours(monitored, "servicemonitors", release="monitoring")
    answer = ask("--release", "sfs", "--expect", "servicemonitor")
    assert "selected by Prometheus main" in answer.of("cluster", "ok")


def test_a_prometheus_that_only_looks_into_its_own_namespace_is_told(ask, monitored):
    # `ruleSelector: {}` takes every rule, and no ruleNamespaceSelector means the Prometheus' own namespace
    ours(monitored, "servicemonitors", release="monitoring")
    problem = ask("--release", "sfs").of("cluster", "problem")
    assert "ruleSelector {} in namespaces null" in problem
    reader = monitored[f"{MONITORING}/prometheuses"]["items"][0]
    reader["spec"]["ruleNamespaceSelector"] = {"matchLabels": {"team": "a"}}
    assert ask("--release", "sfs").problems == []


def test_an_operator_without_a_prometheus_or_without_our_monitor_is_told(ask, monitored):
    monitored[f"{MONITORING}/prometheuses"] = items()
    assert "no Prometheus that could select them" in ask("--release", "sfs").of("cluster", "warning")
    for kind in ("servicemonitors", "prometheusrules"):
        monitored[f"{MONITORING}/namespaces/demo/{kind}?labelSelector={OURS}"] = items()
    assert "nobody reads its metrics" in ask("--release", "sfs").of("cluster", "note")


def test_what_the_account_may_not_read_is_said_and_is_no_problem(ask, monitored):
    monitored[f"{MONITORING}/prometheuses"] = 403
    monitored["/apis/storage.k8s.io/v1/storageclasses"] = 403
    answer = ask("--release", "sfs", "--storage-class", "fast")
    assert "may not read them" in answer.of("cluster", "note")
    assert answer.problems == []


def test_storage_classes(ask, cluster):
    path = "/apis/storage.k8s.io/v1/storageclasses"
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    cluster[path] = items(named("slow"))
    answer = ask("--release", "sfs", "--storage-class", "", "--storage-class", "fast")
    problems = answer.of("cluster", "problem")
    assert "No StorageClass is the default" in problems
    assert "There is no StorageClass fast" in problems
    assert "There are: slow" in problems
    cluster[path] = items(named("slow", metadata={"annotations": default}), named("fast"))
    assert ask("--release", "sfs", "--storage-class", "", "--storage-class", "fast").problems == []


def test_an_api_server_that_refuses_or_is_away_is_told(ask, cluster, monkeypatch):
    cluster["/version"] = 401
    assert "does not answer (Unauthorized)" in ask("--release", "sfs").of("cluster", "problem")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    assert "Connection refused" in ask("--release", "sfs").of("cluster", "problem")


def test_outside_a_cluster_it_says_so(ask):
    answer = ask("--release", "sfs")
    assert "no pod of a cluster" in answer.of("cluster", "problem")
    assert answer.code == 1


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": "1"}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, {"a": "1"}, False),
    ],
)  # fmt: skip
def test_selectors_are_read_as_kubernetes_reads_them(selector, labels, expected):
    assert matches(selector, labels) is expected
