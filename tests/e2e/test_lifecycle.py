"""Install, upgrade, uninstall, install again: what changes, what stays, what is left. In a namespace of its own."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from tests.e2e.system import login, register, until
from tests.e2e.tables import real_table

pytestmark = pytest.mark.e2e

SMALL = ["--set", "api.autoscaling.enabled=false", "--set", "api.replicas=1"]


@pytest.fixture(scope="module")
def fresh(system, watched, tmp_path_factory):
    """The same release as the tested one, small, in a namespace of its own that is removed afterwards."""
    other = replace(system, namespace=f"{system.namespace}-lifecycle")
    other.create_namespace()
    watched.append(other)
    values = tmp_path_factory.mktemp("values") / "values.json"
    values.write_text(system.helm("get", "values", system.name, "--output", "json"))
    yield other, values
    watched.remove(other)
    other.kubectl("delete", "namespace", other.namespace, "--timeout=180s")


def install(release, values):
    chart = "charts/scalable-fastapi-system"
    release.helm("install", release.name, chart, "--values", values, *SMALL, "--wait", "--timeout", "10m")


def secrets_of(release):
    return {
        item["metadata"]["name"]: {key: base64.b64decode(value) for key, value in item["data"].items()}
        for item in release.get("secrets")
        if item["type"] == "Opaque"
    }


def uid(release, component):
    (pod,) = until(lambda: release.pods(component), 60, f"a {component} pod")
    return pod["metadata"]["uid"]


def left(release):
    """Every object in the namespace that an installation could have left."""
    kinds = "all,configmaps,secrets,persistentvolumeclaims,serviceaccounts,ingresses,networkpolicies,poddisruptionbudgets,hpa"
    answer = json.loads(release.kubectl("get", kinds, "--output", "json"))
    names = {f"{item['kind']}/{item['metadata']['name']}" for item in answer["items"]}
    return names - {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}


def test_an_installation_through_its_whole_life(fresh):
    release, values = fresh
    install(release, values)
    with release.api() as client:
        user = register(client)
        accepted = user.upload("stocks.csv", real_table("stocks.csv"))
        user.finished(accepted["task_id"], 120)
    secrets = secrets_of(release)
    assert set(secrets) == {release.fullname, f"{release.fullname}-postgres", f"{release.fullname}-redis"}

    # an upgrade that changes nothing restarts nothing
    before = {component: uid(release, component) for component in ("api", "worker", "postgres", "redis")}
    release.upgrade()
    assert {component: uid(release, component) for component in before} == before
    assert secrets_of(release) == secrets

    # one that changes a setting renews the pods that read it, and no store
    release.upgrade("--set", "config.LOGGING__LEVEL=WARNING", "--set", "worker.concurrency=7")
    until(
        lambda: len(release.pods("api")) == 1 and len(release.pods("worker")) == 1,
        120,
        "the old pods are gone",
    )
    after = {component: uid(release, component) for component in before}
    assert {component for component in before if after[component] != before[component]} == {"api", "worker"}
    assert secrets_of(release) == secrets
    environment = release.kubectl("exec", f"deployment/{release.fullname}-worker", "--", "env")
    assert "JOBS__CONCURRENCY=7" in environment
    assert "LOGGING__LEVEL=WARNING" in environment

    # the user's token, from before, and the data are still good
    with release.api() as client:
        same = replace(user, client=client)
        assert same.data("GET", f"/datasets/{accepted['id']}")["profile"]["rows"] == 560

    # a rollback is an upgrade, too: settings go back, stores and data stay
    release.helm("rollback", release.name, "1", "--wait", "--timeout", "10m")
    assert secrets_of(release) == secrets
    for store in ("postgres", "redis"):
        assert uid(release, store) == before[store]
    with release.api() as client:
        same = replace(user, client=client)
        assert same.data("GET", f"/datasets/{accepted['id']}")["profile"]["rows"] == 560

    # what stays is what the notes say: the database's volume and the secrets that fit it
    release.helm("uninstall", release.name, "--wait", "--timeout", "5m")
    volume = f"PersistentVolumeClaim/data-{release.fullname}-postgres-0"
    kept = {volume, f"Secret/{release.fullname}", f"Secret/{release.fullname}-postgres"}
    until(lambda: left(release) == kept, 120, f"only {kept} are left, not {left(release)}")

    # and it is of use: the next installation finds its data and its key again
    install(release, values)
    assert secrets_of(release)[release.fullname] == secrets[release.fullname]
    with release.api() as client:
        same = replace(user, client=client)
        assert same.data("GET", f"/datasets/{accepted['id']}")["profile"]["rows"] == 560
        assert login(client, user.username).data("GET", "/users/me")["username"] == user.username
    release.helm("uninstall", release.name, "--wait", "--timeout", "5m")
