"""hack/hostkube: the parts that need neither root nor a network."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml

from hack.hostkube import (
    addons,
    archive,
    cgroups,
    cli,
    cluster,
    components,
    config,
    images,
    packages,
    teardown,
)
from hack.tools.common import ToolError
from hack.tools.pins import KUBERNETES_SCHEMAS, TOOLS

MANIFESTS = [
    document
    for file in sorted((config.HERE / "manifests").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]


def test_the_version_key_names_kubernetes_and_changes_with_any_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    key = config.version_key()
    assert key.startswith(f"v{config.KUBERNETES_VERSION}-")
    assert key == config.version_key()
    monkeypatch.setattr(config, "COREDNS_VERSION", "0.0.1")
    assert config.version_key() != key


def test_a_recipe_hash_depends_on_texts_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = config.recipe_hash("x", tmp_path)
    assert first == config.recipe_hash("x", tmp_path)
    assert first != config.recipe_hash("y", tmp_path)
    (tmp_path / "a").write_text("2")
    second = config.recipe_hash("x", tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, config.recipe_hash("x", tmp_path)}) == 3


def test_kubernetes_is_pinned_to_one_version_everywhere() -> None:
    text = (config.HERE / "gomod" / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{config.KUBERNETES_VERSION}" in text
    staging = set(re.findall(r"^\t(?:k8s\.io/\S+) => \S+ (\S+)$", text, re.MULTILINE))
    assert staging == {f"v0.{config.KUBERNETES_VERSION.removeprefix('1.')}"}
    assert config.KUBERNETES_VERSION in KUBERNETES_SCHEMAS
    assert {tool.version for tool in TOOLS if tool.name == "kubectl"} == {config.KUBERNETES_VERSION}


def test_the_systems_own_images_are_those_that_the_manifests_use() -> None:
    used = set()
    for manifest in MANIFESTS:
        used |= set(re.findall(r"localhost/hostkube/[\w/-]+:[\w.]+", json.dumps(manifest)))
    own = {image.name for image in archive.system_images(Path("/nowhere"))}
    assert used | {components.PAUSE_IMAGE} == own


def test_the_systems_own_pods_run_unprivileged() -> None:
    for manifest in MANIFESTS:
        if manifest["kind"] != "Deployment":
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_add_ons_that_up_waits_for_exist() -> None:
    deployments = {
        (m["metadata"]["namespace"], m["metadata"]["name"]) for m in MANIFESTS if m["kind"] == "Deployment"
    }
    assert set(cluster.ADD_ONS) == deployments


def test_an_add_on_runs_its_own_images_in_its_namespace_without_rights() -> None:
    for add_on in addons.ADD_ONS.values():
        if not add_on.running:
            assert not add_on.manifest.exists()
            continue
        manifests = list(yaml.safe_load_all(add_on.manifest.read_text()))
        deployments = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Deployment"}
        assert set(deployments) == set(add_on.running.deployments)
        namespaces = {one["metadata"].get("namespace", add_on.running.namespace) for one in manifests}
        assert namespaces <= {add_on.running.namespace, "kube-system"}
        for one in deployments.values():
            pod = one["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_an_add_ons_images_have_the_pinned_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(addons, "go_build", lambda *_: None)
    monkeypatch.setattr(addons, "download_module", lambda *_: tmp_path)
    monkeypatch.setattr(addons, "run", lambda *_: f"{tmp_path}\n")
    (tmp_path / "prometheus").touch()
    target = tmp_path / "target"
    target.mkdir()
    for add_on in addons.ADD_ONS.values():
        if add_on.running:
            made = {image.name for image in add_on.running.build(target)}
            used = set(re.findall(r"localhost/hostkube/[\w/-]+:[\w.]+", add_on.manifest.read_text()))
            assert used == made


def test_the_operator_is_pinned_to_one_version_everywhere() -> None:
    text = (config.HERE / "gomod" / "prometheus-operator" / "go.mod").read_text()
    versions = set(re.findall(r"github\.com/prometheus-operator/prometheus-operator\S* v(\S+)", text))
    assert versions == {addons.OPERATOR_VERSION}


def test_an_add_on_is_built_anew_when_a_pin_changes_and_kubernetes_is_not() -> None:
    folders = {add_on.folder() for add_on in addons.ADD_ONS.values()}
    assert len(folders) == len(addons.ADD_ONS)
    other = dataclasses.replace(addons.ADD_ONS["keda"], recipe=("0.0.1",))
    assert other.folder() not in folders


def test_the_dns_service_has_the_address_that_pods_are_told() -> None:
    service = next(m for m in MANIFESTS if m["kind"] == "Service" and m["metadata"]["name"] == "kube-dns")
    assert service["spec"]["clusterIP"] == config.DNS_ADDRESS
    assert ipaddress.ip_address(config.DNS_ADDRESS) in ipaddress.ip_network(config.SERVICE_SUBNET)


def test_configuration_files_are_well_formed() -> None:
    files = components.config_files()
    for path, text in files.items():
        if path.suffix == ".yaml":
            assert all(document["kind"] for document in yaml.safe_load_all(text))
    network = json.loads(files[components.CNI_CONFIG / "10-hostkube.conflist"])
    subnet = network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]
    assert ipaddress.ip_network(subnet).subnet_of(ipaddress.ip_network(config.POD_SUBNET))


def test_nothing_listens_on_all_addresses() -> None:
    settings = " ".join(word for c in (*components.FIRST, *components.AFTER_API) for word in c.command)
    assert "0.0.0.0" not in settings
    assert f"--bind-address={config.NODE_ADDRESS}" in settings
    assert "bind=127.0.0.1" in settings


def test_control_group_hierarchies_of_both_versions() -> None:
    mounts = (
        "proc /proc proc rw 0 0\n"
        "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    assert cgroups.hierarchies(mounts) == [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/unified")]


def test_groups_and_processes_are_found_innermost_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    top = tmp_path / config.CGROUP
    for group, pids in ((top, ""), (top / "system", "7\n8\n"), (top / "kubepods/pod1", "9\n")):
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(pids)
    monkeypatch.setattr(cgroups, "mounted_hierarchies", lambda: [tmp_path])
    found = cgroups.groups()
    assert found[-1] == top
    assert found.index(top / "kubepods/pod1") < found.index(top / "kubepods")
    assert cgroups.processes() == {7, 8, 9}


def test_a_new_group_gets_the_processors_of_its_parent(tmp_path: Path) -> None:
    child = tmp_path / "child"
    child.mkdir()
    for name in cgroups.CPUSET_FILES:
        (tmp_path / name).write_text("0-1\n")
        (child / name).write_text("\n")
    cgroups.make(child, tmp_path)
    assert (child / "cpuset.cpus").read_text() == "0-1\n"


def test_mounts_of_the_node_are_unmounted_innermost_first() -> None:
    mountinfo = (
        "1 0 8:1 / / rw - ext4 /dev/vda rw\n"
        "2 1 8:1 / /run/hostkube rw - tmpfs tmpfs rw\n"
        "3 2 8:1 / /run/hostkube/with\\040space rw - tmpfs tmpfs rw\n"
        "4 1 8:1 / /run/hostkubernetes rw - tmpfs tmpfs rw\n"
    )
    assert teardown.mounts_under((Path("/run/hostkube"),), mountinfo) == [
        Path("/run/hostkube/with space"),
        Path("/run/hostkube"),
    ]


def test_routes_that_collide_with_the_nodes_are_found() -> None:
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
        {"dst": "10.96.0.0/16", "protocol": config.ROUTE_PROTOCOL},
        {"dst": "10.0.0.0/8", "dev": "tun0"},
        {"dst": "10.244.0.5", "dev": "cni0"},
    ]
    assert cluster.overlapping_routes(routes) == ["10.0.0.0/8 dev tun0", "10.244.0.5 dev cni0"]


def test_system_images_can_be_read_back(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_bytes(b"\x7fELF")
    target = tmp_path / "images.tar"
    archive.write_archive(target, [archive.ProgramImage("localhost/tool:1", program, ("sh",))])
    with tarfile.open(target) as outer:

        def read(name: str) -> bytes:
            member = outer.extractfile(name)
            assert member
            return member.read()

        (entry,) = json.loads(read("manifest.json"))
        assert entry["RepoTags"] == ["localhost/tool:1"]
        settings = json.loads(read(entry["Config"]))
        assert settings["rootfs"]["diff_ids"] == [f"sha256:{entry['Layers'][0].removesuffix('.tar')}"]
        with tarfile.open(fileobj=outer.extractfile(entry["Layers"][0])) as layer:
            assert layer.getmember("bin/tool").mode == 0o755
            assert layer.getmember("bin/sh").linkname == "tool"


def test_an_images_recipe_covers_its_entry_point(tmp_path: Path) -> None:
    entry = tmp_path / "docker-entrypoint.sh"
    entry.write_text("a")
    image = images.Image("localhost/x:1", "setup", (), entry)
    before = image.recipe()
    entry.write_text("b")
    assert image.recipe() != before


def test_missing_packages_without_root_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "DEBIAN_PACKAGES", {"thing": "/nowhere/thing"})
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    assert packages.missing_packages() == ["thing"]
    with pytest.raises(ToolError, match="thing") as raised:
        packages.ensure_packages()
    assert "root" in raised.value.hint


def test_only_root_may_start_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.os, "geteuid", lambda: 1000)
    with pytest.raises(ToolError, match="root"):
        cluster.require_root_on_linux()
    monkeypatch.setattr(cluster.platform, "system", lambda: "Darwin")
    with pytest.raises(ToolError, match="Linux"):
        cluster.require_root_on_linux()


def test_the_kubeconfig_path_needs_neither_root_nor_a_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hostkube", "kubeconfig"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"{config.KUBECONFIG}\n"
