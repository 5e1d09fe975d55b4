"""Pods: security, probes, labels, how they leave."""

from __future__ import annotations

import pytest

from tests.unit.chart.helm import NAME, SHAPES, container, containers, render

ALL_PODS = [(shape, label) for shape in SHAPES for label, _ in render(shape).pods()]
VERSION_LABELS = {"app.kubernetes.io/version", "helm.sh/chart"}


def pod_of(shape, label):
    return dict(render(shape).pods())[label]


@pytest.mark.parametrize(("shape", "label"), ALL_PODS)
def test_a_pod_passes_the_restricted_standard(shape, label):
    spec = pod_of(shape, label)["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["runAsUser"] > 0
    for item in containers(pod_of(shape, label)):
        security = item["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, item["name"]
        assert security["capabilities"]["drop"] == ["ALL"], item["name"]
        assert "privileged" not in security
        assert not any("hostPort" in port for port in item.get("ports", []))
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}, volume


@pytest.mark.parametrize(("shape", "label"), ALL_PODS)
def test_our_containers_have_a_read_only_root_and_a_place_for_scratch(shape, label):
    for item in containers(pod_of(shape, label)):
        if item["name"] != "proxy":
            assert item["securityContext"]["readOnlyRootFilesystem"] is True
            assert "/tmp" in [mount["mountPath"] for mount in item["volumeMounts"]]


@pytest.mark.parametrize(("shape", "label"), ALL_PODS)
def test_a_pod_gets_no_token_and_no_service_links(shape, label):
    spec = pod_of(shape, label)["spec"]
    assert spec["automountServiceAccountToken"] is (label == "CronJob/-doctor")
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize(("shape", "label"), ALL_PODS)
def test_every_container_of_ours_states_its_resources(shape, label):
    for item in containers(pod_of(shape, label)):
        if item["name"] != "proxy":
            assert item["resources"]["requests"]["cpu"]
            assert item["resources"]["requests"]["memory"]
            assert item["resources"]["limits"]["memory"]


@pytest.mark.parametrize(("shape", "label"), ALL_PODS)
def test_every_mounted_volume_exists_and_every_volume_is_mounted(shape, label):
    kind, name = label.split("/", 1)
    pod = pod_of(shape, label)
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    if kind == "StatefulSet":
        claims = render(shape).one(kind, name)["spec"].get("volumeClaimTemplates", [])
        volumes |= {claim["metadata"]["name"] for claim in claims}
    mounted = {mount["name"] for item in containers(pod) for mount in item.get("volumeMounts", [])}
    assert mounted == volumes


def opens_the_database(item, rendered):
    """Whether the container is told where the database is, by a variable or by the Secret of the release."""
    if "DATABASE__DATABASE_URL" in {entry["name"] for entry in item.get("env", [])}:
        return True
    secrets = {source.get("secretRef", {}).get("name") for source in item.get("envFrom", [])}
    return NAME in secrets and "DATABASE__DATABASE_URL" in rendered.secret("")


@pytest.mark.parametrize("shape", ["default", "ephemeral", "external", "gitops"])
def test_whoever_opens_the_database_has_the_files_that_its_address_may_name(shape):
    """A private CA: `?sslrootcert=/etc/db-ca/ca.crt`."""
    mount = {"name": "db-ca", "mountPath": "/etc/db-ca", "readOnly": True}
    volume = {"name": "db-ca", "secret": {"secretName": "db-ca"}}
    values = {"doctor.enabled": True}
    for component in ("api", "worker"):
        values |= {f"{component}.extraVolumes": [volume], f"{component}.extraVolumeMounts": [mount]}
    rendered = render(shape, values)
    found = set()
    for label, pod in rendered.pods():
        for item in containers(pod):
            if opens_the_database(item, rendered):
                found.add(item["name"])
                assert mount in item["volumeMounts"], (label, item["name"])
                assert volume in pod["spec"]["volumes"], label
    assert {"wait-for-schema", "migrate", "test", "api", "worker", "doctor"} <= found


def test_a_claim_of_the_api_holds_up_no_migration_and_no_test():
    values = {
        "api.extraVolumes": [
            {"name": "files", "persistentVolumeClaim": {"claimName": "files"}},
            {"name": "db-ca", "secret": {"secretName": "db-ca"}},
        ],
        "api.extraVolumeMounts": [
            {"name": "files", "mountPath": "/files"},
            {"name": "db-ca", "mountPath": "/etc/db-ca"},
        ],
    }
    for label, pod in render("default", values).pods():
        if label.startswith(("Job/", "Pod/")):
            assert {volume["name"] for volume in pod["spec"]["volumes"]} - {"tmp", "tests"} == {"db-ca"}
            for item in containers(pod):
                assert "/files" not in [mount["mountPath"] for mount in item["volumeMounts"]]


def test_a_worker_waits_with_its_own_mounts():
    mount = {"name": "tmp", "mountPath": "/var/scratch"}
    rendered = render("default", {"worker.extraVolumeMounts": [mount]})
    assert mount in container(rendered.pod("Deployment", "-worker"), "wait-for-schema")["volumeMounts"]
    assert mount not in container(rendered.pod("Deployment", "-api"), "wait-for-schema")["volumeMounts"]


@pytest.mark.parametrize("shape", SHAPES)
def test_selectors_carry_no_version_and_match_the_pods(shape):
    for item in render(shape).objects:
        if item["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        selector = item["spec"]["selector"]["matchLabels"]
        assert not VERSION_LABELS & set(selector)
        assert selector.items() <= item["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_service_selects_the_pods_of_one_workload_and_names_a_port_of_theirs(shape):
    rendered = render(shape)
    for service in rendered.kind("Service"):
        selector = service["spec"]["selector"]
        chosen = [
            (label, pod)
            for label, pod in rendered.pods()
            if selector.items() <= pod["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for item in containers(chosen[0][1]) for port in item.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_no_label_of_a_pod_of_a_store_changes_with_the_application():
    for name in ("-postgres", "-redis"):
        assert not VERSION_LABELS & set(render().pod("StatefulSet", name)["metadata"]["labels"])


@pytest.mark.parametrize("name", ["api", "worker"])
def test_an_annotation_that_a_pod_has_already_is_not_given_twice_and_not_taken_over(name):
    fixed = {"secrets.secretKey": "k" * 40, "postgres.auth.password": "p", "redis.auth.password": "r"}
    ours = render("default", fixed).pod("Deployment", f"-{name}")["metadata"]["annotations"]
    assert set(ours) == {"kubectl.kubernetes.io/default-container", "checksum/config", "checksum/secrets"}
    theirs = {**dict.fromkeys(ours, "mine"), "example.com/scrape": "true"}
    pod = render("default", {**fixed, f"{name}.podAnnotations": theirs}).pod("Deployment", f"-{name}")
    assert pod["metadata"]["annotations"] == {**ours, "example.com/scrape": "true"}


@pytest.mark.parametrize(("name", "port"), [("api", "http"), ("worker", "health")])
def test_probes_ask_the_health_paths(name, port):
    spec = container(render().pod("Deployment", f"-{name}"), name)
    assert spec["startupProbe"]["httpGet"] == {"path": "/health/live", "port": port}
    assert spec["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": port}
    assert spec["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": port}
    patience = spec["startupProbe"]["periodSeconds"] * spec["startupProbe"]["failureThreshold"]
    assert patience >= 60


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_stores_are_never_killed_by_a_liveness_probe(name):
    spec = container(render().pod("StatefulSet", f"-{name}"), name)
    assert "livenessProbe" not in spec
    assert spec["readinessProbe"]["exec"]["command"]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_pods_wait_for_the_schema_with_their_own_image(name):
    pod = render().pod("Deployment", f"-{name}")
    wait = container(pod, "wait-for-schema")
    assert wait["command"] == ["python", "-m", "services.manage", "migrate", "--wait", "300"]
    assert wait["image"] == container(pod, name)["image"] == f"scalable-fastapi-system/{name}:0.1.0"


def test_an_api_pod_serves_while_it_leaves_and_then_drains():
    values = {"api.shutdown": {"sleepSeconds": 7, "drainSeconds": 40}}
    pod = render("default", values).pod("Deployment", "-api")
    api = container(pod, "api")
    assert api["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert {"name": "API__SHUTDOWN_GRACE_SECONDS", "value": "40"} in api["env"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 7 + 40 + 10


def test_without_a_sleep_there_is_no_hook():
    pod = render("default", {"api.shutdown.sleepSeconds": 0}).pod("Deployment", "-api")
    assert "lifecycle" not in container(pod, "api")


def test_a_worker_pod_gets_longer_than_its_jobs():
    pod = render("default", {"worker.shutdown.drainSeconds": 90}).pod("Deployment", "-worker")
    assert {"name": "JOBS__DRAIN_SECONDS", "value": "90"} in container(pod, "worker")["env"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 90 + 30


def test_a_rollout_never_has_fewer_pods():
    for name in ("-api", "-worker"):
        strategy = render().one("Deployment", name)["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_pods_spread_over_nodes_and_zones():
    constraints = render().pod("Deployment", "-api")["spec"]["topologySpreadConstraints"]
    assert [item["topologyKey"] for item in constraints] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    for item in constraints:
        assert item["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "api"


def test_components_use_the_common_node_choice_unless_they_have_their_own():
    values = {"nodeSelector": {"disk": "ssd"}, "worker.nodeSelector": {"cpu": "big"}}
    rendered = render("default", values)
    assert rendered.pod("Deployment", "-api")["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert rendered.pod("Deployment", "-worker")["spec"]["nodeSelector"] == {"cpu": "big"}
    assert rendered.pod("StatefulSet", "-postgres")["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_the_cluster_may_choose_the_user():
    security = render("default", {"podSecurity.runAsUser": None}).pod("Deployment", "-api")["spec"][
        "securityContext"
    ]
    assert security == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_an_image_is_named_by_registry_tag_or_digest():
    digest = "sha256:" + "a" * 64
    values = {
        "image.registry": "registry.example.com/team",
        "image.tag": "1.2.3",
        "worker.image.digest": digest,
    }
    rendered = render("default", values)
    api = container(rendered.pod("Deployment", "-api"), "api")
    worker = container(rendered.pod("Deployment", "-worker"), "worker")
    assert api["image"] == "registry.example.com/team/scalable-fastapi-system/api:1.2.3"
    assert worker["image"] == f"registry.example.com/team/scalable-fastapi-system/worker@{digest}"


def test_a_sidecar_stands_beside_the_api():
    names = [item["name"] for item in render("everything").pod("Deployment", "-api")["spec"]["containers"]]
    assert names == ["api", "proxy"]


def test_postgres_keeps_its_data_in_a_folder_of_the_volume():
    pod = render().pod("StatefulSet", "-postgres")
    spec = container(pod, "postgres")
    (data,) = [mount["mountPath"] for mount in spec["volumeMounts"] if mount["name"] == "data"]
    (folder,) = [entry["value"] for entry in spec["env"] if entry["name"] == "PGDATA"]
    assert folder.startswith(f"{data}/")


def test_redis_never_evicts_and_appends_to_a_file_only_where_it_is_kept():
    kept = render("default").one("ConfigMap", "-redis")["data"]["redis.conf"]
    assert "maxmemory-policy noeviction" in kept
    assert "appendonly yes" in kept
    assert "appendonly no" in render("ephemeral").one("ConfigMap", "-redis")["data"]["redis.conf"]


def test_the_password_of_redis_is_in_no_argument():
    spec = container(render().pod("StatefulSet", "-redis"), "redis")
    assert "--requirepass" not in " ".join(spec["command"])
    assert spec["env"] == [
        {"name": "REDISCLI_AUTH", "valueFrom": {"secretKeyRef": {"name": f"{NAME}-redis", "key": "password"}}}
    ]
