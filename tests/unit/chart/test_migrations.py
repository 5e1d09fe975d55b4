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


def external_url(url):
    return {"postgres.external.url": url}


def test_another_external_database_is_another_job():
    urls = [
        "postgresql://app:secret@db.example.com:5432/app",
        "postgresql://app:secret@other.example.com:5432/app",
        "postgresql://app:secret@db.example.com:5432/another",
        "postgresql://another:secret@db.example.com:5432/app",
        "postgresql://db.example.com/app",
    ]
    assert len({job("external", external_url(url))["metadata"]["name"] for url in urls}) == len(urls)


def test_another_password_is_no_other_database():
    urls = [f"postgresql://app:{word}@db.example.com:5432/app" for word in ("secret", "an:other/word", "")]
    jobs = [job("external", external_url(url)) for url in urls]
    assert len({found["metadata"]["name"] for found in jobs}) == 1
    # nor can it be guessed from what is no Secret
    (annotations,) = {str(found["spec"]["template"]["metadata"]["annotations"]) for found in jobs}
    assert "checksum/database" in annotations


def test_a_database_that_a_secret_of_yours_names_is_told_by_the_name_of_the_secret():
    assert "annotations" not in job("gitops")["spec"]["template"]["metadata"]
    other = job("gitops", {"postgres.external.existingSecret.name": "another"})
    assert job("gitops")["metadata"]["name"] != other["metadata"]["name"]


def test_a_database_that_goes_with_its_pod_gets_its_schema_again_and_again():
    rendered = render("ephemeral")
    pod = rendered.pod("Deployment", "-schema")
    keeper, migrate = (
        container(pod, "schema"),
        container(rendered.kind("Job")[0]["spec"]["template"], "migrate"),
    )
    assert keeper["command"] == ["python", "-m", "services.manage", "migrate", "--keep", "5"]
    for key in ("image", "env", "envFrom", "volumeMounts"):
        assert keeper[key] == migrate[key]
    for name in ("-postgres", "-redis"):
        (rule,) = rendered.one("NetworkPolicy", name)["spec"]["ingress"]
        (expression,) = rule["from"][0]["podSelector"]["matchExpressions"]
        assert "schema" in expression["values"]
    (nobody,) = rendered.one("NetworkPolicy", "-jobs")["spec"]["podSelector"]["matchExpressions"]
    assert "schema" in nobody["values"]


def test_a_database_that_is_kept_or_migrated_by_you_gets_it_once():
    for shape, values in (("default", {}), ("external", {}), ("ephemeral", {"migrate.enabled": False})):
        assert "Deployment/-schema" not in render(shape, values).names()
