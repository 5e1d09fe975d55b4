"""The environment of the pods: what the chart sets is what the application reads."""

from __future__ import annotations

import re

import pytest
import yaml
from scalable_fastapi_system.infra.settings import Settings

from tests.unit.chart.helm import CHART, SHAPES, RenderError, container, plain_environment, render

SETTING = re.compile(r"^[A-Z_]+__[A-Z0-9_]+$|^ENVIRONMENT$")
EMBEDDED = [shape for shape in SHAPES if shape in {"default", "ephemeral", "external", "everything"}]


def settings_of(monkeypatch, tmp_path, environment):
    monkeypatch.chdir(tmp_path)  # no .env of this folder
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.mark.parametrize("shape", EMBEDDED)
@pytest.mark.parametrize("name", ["api", "worker"])
def test_production_accepts_the_environment(monkeypatch, tmp_path, shape, name):
    rendered = render(shape)
    environment = plain_environment(rendered.pod("Deployment", f"-{name}"), name, rendered)
    settings = settings_of(monkeypatch, tmp_path, environment)
    assert settings.is_production
    assert settings.database.database_url.startswith("postgresql://")
    assert settings.redis.redis_url.startswith(("redis://", "rediss://"))
    assert not settings.are_jobs_embedded
    assert settings.logging.format == "json"


def test_the_values_become_settings(monkeypatch, tmp_path):
    values = {
        "api.processes": 3,
        "postgres.maxConnections": 500,
        "api.database": {"poolSize": 4, "maxOverflow": 2},
        "config": {"LOGGING__LEVEL": "WARNING", "RATE_LIMIT__ENABLED": False},
        "api.config": {"API__DOCS_ENABLED": False},
        "storage.url": "s3://bucket/prefix",
    }
    rendered = render("default", values)
    environment = plain_environment(rendered.pod("Deployment", "-api"), "api", rendered)
    settings = settings_of(monkeypatch, tmp_path, environment)
    assert (settings.api.workers, settings.api.host, settings.api.port) == (3, "0.0.0.0", 8000)
    assert (settings.database.pool_size, settings.database.max_overflow) == (4, 2)
    assert (settings.logging.level, settings.rate_limit.enabled) == ("WARNING", False)
    assert (settings.api.docs_enabled, settings.storage.url) == (False, "s3://bucket/prefix")


def test_the_values_of_the_worker_become_settings(monkeypatch, tmp_path):
    values = {
        "worker.concurrency": 7,
        "worker.queues": ["default", "reports"],
        "worker.config": {"JOBS__MAX_CRASHES": 9},
    }
    rendered = render("default", values)
    environment = plain_environment(rendered.pod("Deployment", "-worker"), "worker", rendered)
    settings = settings_of(monkeypatch, tmp_path, environment)
    assert (settings.jobs.concurrency, settings.jobs.queues) == (7, ["default", "reports"])
    assert (settings.jobs.health_host, settings.jobs.health_port) == ("0.0.0.0", 8001)
    assert settings.jobs.max_crashes == 9


def test_the_urls_name_the_embedded_stores_and_their_passwords():
    values = {"postgres.auth.password": "pg-word", "redis.auth.password": "redis-word"}
    rendered = render("default", values)
    environment = plain_environment(rendered.pod("Deployment", "-api"), "api", rendered)
    assert environment["DATABASE__DATABASE_URL"] == (
        "postgresql://app:pg-word@sfs-scalable-fastapi-system-postgres:5432/app"
    )
    assert environment["REDIS__REDIS_URL"] == "redis://:redis-word@sfs-scalable-fastapi-system-redis:6379/0"


def test_a_variable_is_defined_before_it_is_used():
    for shape in SHAPES:
        for _, pod in render(shape).pods():
            for item in pod["spec"]["containers"]:
                seen = set()
                for entry in item.get("env", []):
                    assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= seen
                    seen.add(entry["name"])


@pytest.mark.parametrize("shape", SHAPES)
def test_no_variable_is_given_twice(shape):
    for label, pod in render(shape).pods():
        for item in pod["spec"]["containers"]:
            names = [entry["name"] for entry in item.get("env", [])]
            assert len(names) == len(set(names)), label


def test_what_the_chart_sets_itself_cannot_be_set_beside_it():
    rendered = render("external")
    own = set(rendered.one("ConfigMap", "")["data"]) - {"LOGGING__FORMAT"} | set(rendered.secret(""))
    for name in ("api", "worker"):
        own |= {entry["name"] for entry in container(rendered.pod("Deployment", f"-{name}"), name)["env"]}
    own = {name for name in own if SETTING.match(name)}
    source = (CHART / "templates" / "_environment.tpl").read_text()
    managed = yaml.safe_load(source.split('define "sfs.managedSettings" -}}')[1].split("{{- end")[0])
    assert set(managed) == own
    for name in own:
        with pytest.raises(RenderError, match=f"config.{name}"):
            render("default", {"config": {name: "x"}})


def test_a_default_of_the_chart_gives_way_to_config():
    assert (
        render("default", {"config": {"LOGGING__FORMAT": "console"}}).one("ConfigMap", "")["data"][
            "LOGGING__FORMAT"
        ]
        == "console"
    )


def test_a_setting_that_the_application_does_not_know_is_found_at_start(monkeypatch, tmp_path):
    rendered = render("default", {"config": {"DATABASE__POOLSIZE": 3}})
    environment = plain_environment(rendered.pod("Deployment", "-api"), "api", rendered)
    with pytest.raises(ValueError, match="poolsize"):
        settings_of(monkeypatch, tmp_path, environment)


@pytest.mark.parametrize("component", ["api", "worker"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("API__WORKERS", r"not here; set api\.processes"),
        ("DATABASE__POOL_SIZE", r"not here; set api\.database\.poolSize"),
        ("DATABASE__DATABASE_URL", r"not here; set postgres\.mode"),
        ("SECURITY__SECRET_KEY", r"not here; set secrets\.secretKey"),
        ("LOGGING__LEVEL", r"\.config as well"),
        ("POSTGRES_PASSWORD", "an embedded store's password"),
        ("REDIS_PASSWORD", "an embedded store's password"),
        ("POD_NAME", "given twice"),
    ],
)
def test_a_variable_that_a_pod_would_have_twice_is_refused_by_name(component, name, why):
    entries = [{"name": "POD_NAME", "value": "x"}, {"name": name, "value": "y"}]
    values = {f"{component}.extraEnv": entries, f"{component}.config": {"LOGGING__LEVEL": "DEBUG"}}
    with pytest.raises(RenderError, match=rf"{component}\.extraEnv: {name}: .*{why}"):
        render("default", values)


def test_a_variable_of_a_store_that_is_elsewhere_may_have_any_name():
    entries = [{"name": "POSTGRES_PASSWORD", "value": "x"}, {"name": "REDIS_PASSWORD", "value": "y"}]
    rendered = render("external", {"api.extraEnv": entries})
    assert all(entry in container(rendered.pod("Deployment", "-api"), "api")["env"] for entry in entries)


def test_what_is_in_the_other_component_s_config_may_be_in_extra_env():
    values = {
        "api.config": {"LOGGING__LEVEL": "DEBUG"},
        "worker.extraEnv": [{"name": "LOGGING__LEVEL", "value": "INFO"}],
    }
    assert render("default", values).objects


@pytest.mark.parametrize(
    ("values", "host"),
    [
        ({}, ""),
        ({"config": {"SECURITY__ALLOWED_HOSTS": "api.example.com, example.com"}}, "api.example.com"),
        ({"config": {"SECURITY__ALLOWED_HOSTS": '["api.example.com", "b"]'}}, "api.example.com"),
        ({"config": {"SECURITY__ALLOWED_HOSTS": "*.example.com"}}, "helm-test.example.com"),
        ({"config": {"SECURITY__ALLOWED_HOSTS": "example.com,*"}}, ""),
        ({"config": {"SECURITY__ALLOWED_HOSTS": "a"}, "api.config": {"SECURITY__ALLOWED_HOSTS": "b"}}, "b"),
    ],
)
def test_helm_test_calls_the_api_by_a_host_that_it_takes(values, host):
    (pod,) = [
        item for item in render("default", values).kind("Pod") if "-test-job" in item["metadata"]["name"]
    ]
    told = {entry["name"]: entry.get("value") for entry in container(pod, "test")["env"]}
    assert told["API_HOST_HEADER"] == host
