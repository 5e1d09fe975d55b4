"""The doctor: a Job on demand whose arguments say what the release relies on, and an account that only reads."""

from __future__ import annotations

from domains.registry import PRODUCT
from scalable_fastapi_system.cli import main

from tests.unit.chart.helm import container, plain_environment, render

READING = {"get", "list"}


def arguments(shape="default", **values):
    rendered = render(shape, {"doctor.enabled": True, **values})
    return container(rendered.pod("CronJob", "-doctor"), "doctor")["args"]


def test_it_waits_to_be_asked_unless_it_has_a_schedule():
    spec = render("default", {"doctor.enabled": True}).one("CronJob", "-doctor")["spec"]
    assert spec["suspend"] is True
    assert render("everything").one("CronJob", "-doctor")["spec"]["suspend"] is False


def test_it_answers_once_and_its_pods_are_no_other_component_s():
    rendered = render("everything")
    job = rendered.one("CronJob", "-doctor")["spec"]["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "doctor"


def test_it_is_told_what_the_release_relies_on():
    assert {
        "--release=sfs",
        "--expect=metrics",
        "--expect=requests-in-flight",
        "--expect=scaledobject",
        "--expect=servicemonitor",
        "--expect=prometheusrule",
        "--expect=httproute",
        "--storage-class=fast",
    } <= set(arguments("everything"))
    assert "--storage-class=" in arguments()
    few = arguments("ephemeral")
    assert [word for word in few if word.startswith(("--expect", "--storage"))] == []


def test_it_reckons_with_the_connections_that_the_render_checks():
    wanted = next(word for word in arguments() if word.startswith("--wanted-connections="))
    # (5 + 5 + 5 + 3) x (6 + 1) + (10 + 5 + 2 + 8) x (4 + 1) + 10
    assert wanted == "--wanted-connections=261"


def test_the_command_takes_these_arguments(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(["doctor", *arguments("everything", **{"doctor.strict": True})], product=PRODUCT)
    assert code == 1  # there is no cluster here, and it says so
    assert "no pod of a cluster" in capsys.readouterr().out


def test_it_looks_with_the_settings_of_the_api():
    rendered = render("default", {"doctor.enabled": True, "api.config": {"LOGGING__LEVEL": "DEBUG"}})
    of_doctor = plain_environment(rendered.pod("CronJob", "-doctor"), "doctor", rendered)
    of_api = plain_environment(rendered.pod("Deployment", "-api"), "api", rendered)
    assert of_doctor.items() <= of_api.items()
    assert of_doctor["LOGGING__LEVEL"] == "DEBUG"


def test_its_account_only_reads_and_no_secrets():
    rendered = render("everything")
    rules = rendered.one("Role", "-doctor")["rules"] + rendered.kind("ClusterRole")[0]["rules"]
    for rule in rules:
        assert set(rule["verbs"]) <= READING
        assert not {"*", "secrets", "configmaps", "pods"} & set(rule["resources"])
    for binding in [*rendered.kind("RoleBinding"), *rendered.kind("ClusterRoleBinding")]:
        (subject,) = binding["subjects"]
        assert subject["name"] == rendered.pod("CronJob", "-doctor")["spec"]["serviceAccountName"]


def test_without_access_to_the_cluster_it_gets_no_role_and_no_token():
    rendered = render("default", {"doctor.enabled": True, "doctor.clusterAccess": False})
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} & {
        item["kind"] for item in rendered.objects
    }
    spec = rendered.pod("CronJob", "-doctor")["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert not any(word.startswith("--release") for word in container({"spec": spec}, "doctor")["args"])


def test_the_stores_let_it_in():
    for store in ("-postgres", "-redis"):
        (rule,) = render("default", {"doctor.enabled": True}).one("NetworkPolicy", store)["spec"]["ingress"]
        (expression,) = rule["from"][0]["podSelector"]["matchExpressions"]
        assert "doctor" in expression["values"]
