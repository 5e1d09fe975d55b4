"""Secrets: where they come from, where they are kept, and that they are nowhere else."""

from __future__ import annotations

import pytest

from tests.unit.chart.helm import NAME, SHAPES, RenderError, container, render

KEEP = {"helm.sh/resource-policy": "keep"}
FIXED = {
    "secrets.secretKey": "k" * 40,
    "postgres.auth.password": "postgres-word",
    "redis.auth.password": "redis-word",
}


def checksum(rendered):
    return rendered.pod("Deployment", "-api")["metadata"]["annotations"]["checksum/secrets"]


def test_what_is_not_given_is_random_and_long_enough():
    first, second = render("default").secret(""), render("default", {"nodeSelector": {"a": "b"}}).secret("")
    assert len(first["SECURITY__SECRET_KEY"]) >= 32
    assert first["SECURITY__SECRET_KEY"] != second["SECURITY__SECRET_KEY"]
    assert len(render("default").secret("-postgres")["password"]) >= 24


def test_one_render_agrees_with_itself():
    rendered = render("default")
    annotations = [
        rendered.pod("Deployment", name)["metadata"]["annotations"] for name in ("-api", "-worker")
    ]
    assert annotations[0]["checksum/secrets"] == annotations[1]["checksum/secrets"]


def test_values_win_and_make_a_render_repeatable():
    rendered = render("default", FIXED)
    assert rendered.secret("") == {"SECURITY__SECRET_KEY": "k" * 40}
    assert rendered.secret("-postgres") == {"password": "postgres-word"}
    assert rendered.secret("-redis") == {"password": "redis-word"}
    assert rendered.text == render("default", {**FIXED, "nameOverride": ""}).text


def test_a_changed_secret_renews_the_pods():
    first = render("default", FIXED)
    for name in FIXED:
        assert checksum(
            render("default", {**FIXED, name: "another-word-of-forty-characters-length-0"})
        ) != checksum(first)


def test_a_changed_setting_renews_the_pods():
    first = render("default", FIXED).pod("Deployment", "-worker")["metadata"]["annotations"]
    second = render("default", {**FIXED, "config": {"LOGGING__LEVEL": "DEBUG"}}).pod("Deployment", "-worker")
    assert first["checksum/config"] != second["metadata"]["annotations"]["checksum/config"]


def test_no_secret_stands_outside_of_secrets():
    rendered = render("default", FIXED)
    for item in rendered.objects:
        if item["kind"] != "Secret":
            for word in FIXED.values():
                assert word not in str(item), item["metadata"]["name"]


def test_two_renders_are_the_same_where_all_secrets_exist():
    first = render("gitops").text
    assert first == render("gitops", {"nameOverride": ""}).text
    assert not render("gitops").kind("Secret")


def test_an_existing_secret_feeds_every_pod_that_needs_it():
    rendered = render("gitops")
    for _, pod in rendered.pods():
        for item in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert {"secretRef": {"name": "platform-settings"}} in item["envFrom"]
            by_name = {entry["name"]: entry for entry in item["env"]}
            assert by_name["DATABASE__DATABASE_URL"]["valueFrom"]["secretKeyRef"] == {
                "name": "database-app",
                "key": "uri",
            }
            assert by_name["REDIS__REDIS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "cache", "key": "url"}


def test_the_embedded_stores_may_take_existing_passwords():
    values = {
        "postgres.auth.existingSecret": {"name": "mine", "key": "pg"},
        "redis.auth.existingSecret": {"name": "mine", "key": "cache"},
    }
    rendered = render("default", values)
    assert [item["metadata"]["name"] for item in rendered.kind("Secret")] == [NAME]
    postgres = container(rendered.pod("StatefulSet", "-postgres"), "postgres")
    references = [entry["valueFrom"]["secretKeyRef"] for entry in postgres["env"] if "valueFrom" in entry]
    assert references == [{"name": "mine", "key": "pg"}]
    api = container(rendered.pod("Deployment", "-api"), "api")
    used = [entry["valueFrom"]["secretKeyRef"] for entry in api["env"] if "valueFrom" in entry]
    assert used == [{"name": "mine", "key": "pg"}, {"name": "mine", "key": "cache"}]


def test_secrets_stay_as_long_as_the_data_that_they_unlock():
    kept = render("default")
    assert kept.one("Secret", "")["metadata"]["annotations"] == KEEP
    assert kept.one("Secret", "-postgres")["metadata"]["annotations"] == KEEP
    assert "annotations" not in kept.one("Secret", "-redis")["metadata"]
    assert render("external").one("Secret", "")["metadata"]["annotations"] == KEEP


@pytest.mark.parametrize(
    "value", [{"postgres.persistence.enabled": False}, {"postgres.persistence.whenDeleted": "Delete"}]
)
def test_secrets_go_with_the_data(value):
    for item in render("default", value).kind("Secret"):
        assert "annotations" not in item["metadata"]


@pytest.mark.parametrize("shape", SHAPES)
def test_only_kept_data_has_a_kept_claim(shape):
    for item in render(shape).kind("StatefulSet"):
        if "volumeClaimTemplates" in item["spec"]:
            policy = item["spec"]["persistentVolumeClaimRetentionPolicy"]
            kept = "Retain" if item["metadata"]["name"].endswith("-postgres") else "Delete"
            assert policy == {"whenDeleted": kept, "whenScaled": "Retain"}


def test_a_short_key_is_refused():
    with pytest.raises(RenderError, match="at least 32 characters"):
        render("default", {"secrets.secretKey": "short"})


@pytest.mark.parametrize("word", ["with space", "sl/ash", "at@sign", "per%cent", 'quo"te'])
def test_a_password_that_would_break_a_url_is_refused(word):
    with pytest.raises(RenderError, match="password"):
        render("default", {"postgres.auth.password": word})


def test_external_stores_need_an_address():
    with pytest.raises(RenderError, match=r"set postgres\.external\.url"):
        render("default", {"postgres.mode": "external"})
    with pytest.raises(RenderError, match=r"set redis\.external\.url"):
        render("default", {"redis.mode": "external"})
