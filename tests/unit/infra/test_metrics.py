"""HTTP metrics carry the instrumentator's names and do not grow with paths."""

from prometheus_client import CollectorRegistry, generate_latest
from scalable_fastapi_system import MetricsManager


def test_a_request_is_counted_by_method_route_and_status_group():
    registry = CollectorRegistry()
    manager = MetricsManager(registry)
    manager.record_request(method="GET", endpoint="/users/{id}", status=204, duration=0.02)
    value = registry.get_sample_value(
        "http_requests_total", {"method": "GET", "status": "2xx", "handler": "/users/{id}"}
    )
    assert value == 1.0
    labels = {"method": "GET", "handler": "/users/{id}", "le": "0.025"}
    assert registry.get_sample_value("http_request_duration_seconds_bucket", labels) == 1.0


def test_managers_of_one_registry_share_their_collectors():
    registry = CollectorRegistry()
    MetricsManager(registry).record_request("GET", "/", 200, 0.1)
    MetricsManager(registry).record_request("GET", "/", 200, 0.1)
    assert (
        registry.get_sample_value("http_requests_total", {"method": "GET", "status": "2xx", "handler": "/"})
        == 2.0
    )


def test_the_guide_s_call_without_arguments_works():
    assert b"http_requests_total" in generate_latest(MetricsManager().registry)


def test_the_names_are_those_of_the_instrumentator():
    from prometheus_fastapi_instrumentator import metrics as reference

    theirs, ours = CollectorRegistry(), CollectorRegistry()
    reference.default(registry=theirs)
    MetricsManager(ours)
    names = {
        family.name: tuple(family.samples and sorted(family.samples[0].labels)) for family in theirs.collect()
    }
    assert set(names) <= {family.name for family in ours.collect()}


def test_a_route_s_counters_are_there_before_its_first_error():
    registry = CollectorRegistry()
    MetricsManager(registry).prepare("GET", "/users/{id}")
    for status in ("2xx", "5xx"):
        labels = {"method": "GET", "status": status, "handler": "/users/{id}"}
        assert registry.get_sample_value("http_requests_total", labels) == 0.0
