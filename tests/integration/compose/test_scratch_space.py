"""Scratch space in compose.yaml: what is memory has a bound, and what may be large is on disk."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hack.dev.layout import REPOSITORY

# as Compose sees it: with what the services have in common merged into each
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
SIZED = re.compile(r"^/[\w/]+:(?:[\w=]+,)*size=[0-9]+[kmg]$")


def test_no_scratch_space_in_memory_is_without_a_bound() -> None:
    found = {
        (name, mount) for name, service in COMPOSE["services"].items() for mount in service.get("tmpfs", [])
    }
    assert {name for name, _ in found} == {"migrate", "api", "redis", "nginx"}
    assert [mount for _, mount in found if not SIZED.match(mount)] == []
    long_form = [
        mount
        for service in COMPOSE["services"].values()
        for mount in service.get("volumes", [])
        if isinstance(mount, dict) and mount.get("type") == "tmpfs"
    ]
    assert long_form == []


def test_the_worker_s_files_are_in_a_volume() -> None:
    worker = COMPOSE["services"]["worker"]
    assert worker["volumes"] == ["worker-tmp:/tmp"]
    assert worker["tmpfs"] == []
    assert {"postgres", "redis", "worker-tmp"} == set(COMPOSE["volumes"])


def test_every_read_only_container_has_a_place_for_scratch() -> None:
    for name, service in COMPOSE["services"].items():
        if service.get("read_only"):
            mounts = [
                *service.get("tmpfs", []),
                *(mount.partition(":")[2] for mount in service.get("volumes", [])),
            ]
            assert any(mount.partition(":")[0] == "/tmp" for mount in mounts), name


def test_nginx_keeps_no_answer_in_a_file() -> None:
    text = (REPOSITORY / "compose" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    assert text.count("proxy_max_temp_file_size 0;") == 1
    # no location has a proxy of its own kind with other limits
    assert "proxy_max_temp_file_size" not in text.replace("proxy_max_temp_file_size 0;", "")
