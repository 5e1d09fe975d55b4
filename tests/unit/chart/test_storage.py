"""Files in a folder: the pods of API and workers have to share it."""

from __future__ import annotations

import re

import pytest

from tests.unit.chart.helm import REPOSITORY, RenderError, container, render

CLAIM = {"name": "files", "persistentVolumeClaim": {"claimName": "files"}}
EMPTY = {"name": "files", "emptyDir": {}}


def mounted(path="/data", volume=CLAIM, components=("api", "worker"), **more):
    """Values that mount one volume in the components."""
    mount = {"name": volume["name"], "mountPath": path, **more}
    return {f"{name}.extraVolumes": [volume] for name in components} | {
        f"{name}.extraVolumeMounts": [mount] for name in components
    }


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///data", "/data"),
        ("file:///data/", "/data"),
        ("file:///data", "/data/"),
        ("file:///data/of/ours", "/data"),
        ("file:///our%20data", "/our data"),
        ("file:///tmp/files", "/tmp/files"),
    ],
)
def test_a_folder_in_a_volume_that_all_mount_is_taken(url, path):
    rendered = render("default", {"storage.url": url, **mounted(path)})
    assert rendered.one("ConfigMap", "")["data"]["STORAGE__URL"] == url
    for name in ("api", "worker"):
        mounts = container(rendered.pod("Deployment", f"-{name}"), name)["volumeMounts"]
        assert {"name": "files", "mountPath": path} in mounts


@pytest.mark.parametrize(
    ("url", "values", "without"),
    [
        ("file:///data", {}, "api.extraVolumeMounts, worker.extraVolumeMounts"),
        ("file:///tmp/files", {}, "api.extraVolumeMounts, worker.extraVolumeMounts"),
        ("file:///data", mounted(components=["api"]), "worker.extraVolumeMounts"),
        ("file:///data", mounted(components=["worker"]), "api.extraVolumeMounts"),
        ("file:///database", mounted(), "api.extraVolumeMounts, worker.extraVolumeMounts"),
        ("file:///data/../else", mounted(), "api.extraVolumeMounts, worker.extraVolumeMounts"),
        # what each pod has for itself
        ("file:///data", mounted(volume=EMPTY), "api.extraVolumeMounts, worker.extraVolumeMounts"),
        (
            "file:///data",
            {
                f"{name}.extraVolumeMounts": [{"name": "tmp", "mountPath": "/data"}]
                for name in ("api", "worker")
            },
            "api.extraVolumeMounts, worker.extraVolumeMounts",
        ),
        # the workers of a queue have the mounts of `worker`, but where they say theirs
        (
            "file:///data",
            {**mounted(), "extraWorkers": {"heavy": {"queues": ["heavy"], "extraVolumeMounts": []}}},
            "extraWorkers.heavy.extraVolumeMounts",
        ),
    ],
)
def test_a_folder_that_pods_would_not_find_or_not_share_is_refused(url, values, without):
    with pytest.raises(RenderError) as caught:
        render("default", {"storage.url": url, **values})
    assert f"storage.url: {url} has to be in a volume" in str(caught.value)
    assert f"there is none in {without}\n" in str(caught.value)


def test_of_two_mounts_the_nearer_one_holds():
    values = {"storage.url": "file:///data/files", **mounted()}
    for name in ("api", "worker"):
        values[f"{name}.extraVolumes"] = [CLAIM, {"name": "own", "emptyDir": {}}]
        values[f"{name}.extraVolumeMounts"] = [
            {"name": "files", "mountPath": "/data"},
            {"name": "own", "mountPath": "/data/files"},
        ]
    with pytest.raises(RenderError, match="has to be in a volume"):
        render("default", values)
    assert render("default", {**values, "storage.url": "file:///data/others"}).objects


@pytest.mark.parametrize("url", ["file://data/files", "file://data", "file:///"])
def test_a_url_that_names_no_folder_is_refused(url):
    with pytest.raises(RenderError, match=f"storage.url: {url} is not of the form file:///folder"):
        render("default", {"storage.url": url, **mounted()})


def test_the_values_of_the_page_render(tmp_path):
    page = (REPOSITORY / "docs" / "chart.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(storage: .*?)```", page, re.DOTALL)
    (tmp_path / "values.yaml").write_text(recipe)
    rendered = render("default", files=(tmp_path / "values.yaml",))
    assert rendered.one("ConfigMap", "")["data"]["STORAGE__URL"] == "file:///files"
