"""The migration's Job: a plain one, which GitOps tools and upgrades can live with."""

from __future__ import annotations

import re

from tests.unit.chart.helm import SHAPES, container, render


def job(shape="default", values=None):
    (found,) = render(shape, values).kind("Job")
    return found


def test_it_is_no_hook_has_no_ttl_and_no_fixed_name():
    for shape in SHAPES:
        found = job(shape)
        assert re.fullmatch(r".*-migrate-[0-9a-f]{10}", found["metadata"]["name"])
        assert not any("hook" in key for key in found["metadata"].get("annotations", {}))
        assert "ttlSecondsAfterFinished" not in found["spec"]
        assert "replicas" not in found["spec"]


def test_another_image_is_another_job():
    assert job()["metadata"]["name"] != job(values={"image.tag": "0.2.0"})["metadata"]["name"]


def test_a_setting_or_a_secret_makes_no_other_job():
    names = {
        job()["metadata"]["name"],
        job(values={"config": {"LOGGING__LEVEL": "DEBUG"}})["metadata"]["name"],
        job(values={"secrets.secretKey": "k" * 40})["metadata"]["name"],
        job(values={"api.replicas": 5})["metadata"]["name"],
    }
    assert len(names) == 1


def test_whatever_changes_the_spec_changes_the_name():
    changes = [
        {},
        {"migrate.resources": {"requests": {"cpu": "1"}}},
        {"migrate.backoffLimit": 9},
        {"nodeSelector": {"a": "b"}},
        {"commonLabels": {"team": "x"}},
        {"postgres.auth.username": "other"},
    ]
    seen = {}
    for values in changes:
        found = job(values=values)
        assert seen.setdefault(found["metadata"]["name"], found["spec"]) == found["spec"]
    assert len(seen) == len(changes)


def test_it_migrates():
    spec = job()["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "OnFailure"
    command = container(job()["spec"]["template"], "migrate")["command"]
    assert command[:4] == ["python", "-m", "services.manage", "migrate"]
    assert "--check" not in command


def test_without_it_the_pods_still_wait():
    rendered = render("default", {"migrate.enabled": False})
    assert not rendered.kind("Job")
    assert container(rendered.pod("Deployment", "-api"), "wait-for-schema")
