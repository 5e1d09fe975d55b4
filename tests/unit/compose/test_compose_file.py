"""compose.yaml against what it names: settings, files, images, users and the chart's choices."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from scalable_fastapi_system.infra.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
OURS = ("migrate", "api", "worker")
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "SECRET_KEY"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        (ROOT / "charts/scalable-fastapi-system/values.yaml").read_text(encoding="utf-8")
    )
    return loaded


def test_every_setting_in_it_exists(compose: dict[str, Any]) -> None:
    known = {"ENVIRONMENT"} | {
        f"{section.upper()}__{name.upper()}"
        for section, field in Settings.model_fields.items()
        if hasattr(field.annotation, "model_fields")
        for name in field.annotation.model_fields
    }
    used = {name for service in OURS for name in compose["services"][service]["environment"]}
    assert used <= known
    assert {"DATABASE__DATABASE_URL", "REDIS__REDIS_URL", "SECURITY__SECRET_KEY"} <= used


def test_every_variable_that_it_reads_is_in_the_page() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    told = {
        name for row in page.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row)
    }
    assert read - told == set()


def test_no_variable_of_a_shell_makes_it_anything_but_production(compose: dict[str, Any]) -> None:
    assert {compose["services"][name]["environment"]["ENVIRONMENT"] for name in OURS} == {"production"}


def test_what_it_builds_and_mounts_is_there(compose: dict[str, Any]) -> None:
    for service in ("api", "worker"):
        assert (ROOT / compose["services"][service]["build"]["dockerfile"]).is_file()
    mounts = [volume.split(":")[0] for volume in compose["services"]["nginx"]["volumes"]]
    assert "./compose/nginx" in mounts
    assert (ROOT / "compose/nginx/nginx.conf").is_file()
    assert {mount.removeprefix("./") for mount in mounts} - {"compose/nginx"} == {
        "compose/tls"
    }  # by compose/init


def test_the_stores_are_the_charts(compose: dict[str, Any], values: dict[str, Any]) -> None:
    for store in ("postgres", "redis"):
        image = values[store]["image"]
        default = f"{image['repository']}:{image['tag']}"
        assert compose["services"][store]["image"] == f"${{{store.upper()}_IMAGE:-{default}}}"


@pytest.mark.parametrize("service", OURS)
def test_our_containers_have_no_rights(compose: dict[str, Any], service: str) -> None:
    settings = compose["services"][service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert "privileged" not in settings
    assert "ports" not in settings, "nginx alone is reached from outside"


def test_nobody_but_a_registry_of_choice_is_asked_for_our_images(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["image"] == services["api"]["image"]
    assert services["migrate"]["pull_policy"] == "never"
    assert all("build" in services[name] for name in ("api", "worker"))


def test_every_secret_is_asked_for_and_none_is_written_down(init: Path) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == SECRETS
    run(init)
    assert set(names(init)) == asked


def test_only_the_apis_network_may_tell_a_clients_address(compose: dict[str, Any]) -> None:
    (subnet,) = compose["networks"]["edge"]["ipam"]["config"]
    assert compose["services"]["api"]["environment"]["SECURITY__TRUSTED_PROXIES"] == subnet["subnet"]
    assert compose["networks"]["stores"]["internal"] is True
    assert compose["services"]["nginx"]["networks"] == ["edge"]


def test_a_stop_is_longer_than_what_the_service_takes_to_drain(compose: dict[str, Any]) -> None:
    settings = Settings(_env_file=None)
    api = int(compose["services"]["api"]["stop_grace_period"].removesuffix("s"))
    worker = int(compose["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert api > settings.api.shutdown_grace_seconds + 5
    assert worker > settings.jobs.drain_seconds + 5


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """compose/init in a folder of its own."""
    script = tmp_path / "init"
    script.write_bytes((ROOT / "compose" / "init").read_bytes())
    script.chmod(0o755)
    return script


def run(script: Path, *arguments: str) -> str:
    return subprocess.run([script, *arguments], check=True, capture_output=True, text=True).stdout


def names(init: Path) -> list[str]:
    return re.findall(r"^(\w+)=", (init.parent / ".env").read_text(), re.MULTILINE)


def test_secrets_are_made_once_and_for_the_owner_alone(init: Path) -> None:
    run(init, "api.example.com")
    first = {path: path.read_bytes() for path in sorted(init.parent.rglob("*")) if path.is_file()}
    assert {path.name for path in first} == {"init", ".env", "tls.crt", "tls.key"}
    assert {path.stat().st_mode & 0o077 for path in first if path.name != "init"} == {0}
    assert "compose/.env is there and kept" in run(init)
    assert {path: path.read_bytes() for path in first} == first


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_file_that_holds_only_ports_is_given_the_secrets(init: Path, end: str) -> None:
    file = init.parent / ".env"
    file.write_text(f"HTTP_PORT=8080\nHTTPS_PORT=8443{end}")
    file.chmod(0o644)
    told = run(init)
    assert all(name in told for name in SECRETS)
    assert file.read_text().startswith("HTTP_PORT=8080\nHTTPS_PORT=8443\n")
    assert set(names(init)) == {"HTTP_PORT", "HTTPS_PORT"} | SECRETS
    assert file.stat().st_mode & 0o077 == 0
    assert "compose/.env is there and kept" in run(init)


def test_only_what_is_lacking_is_added(init: Path) -> None:
    file = init.parent / ".env"
    there = "export SECRET_KEY = '#of ours'\nREDIS_PASSWORD=\n# POSTGRES_PASSWORD=of-another-time\n"
    file.write_text(there)
    assert "lacked POSTGRES_PASSWORD REDIS_PASSWORD: added" in run(init)
    added = file.read_text().removeprefix(there)
    assert re.findall(r"^(\w+)=[0-9a-f]{48}$", added, re.MULTILINE) == ["POSTGRES_PASSWORD", "REDIS_PASSWORD"]
    assert "SECRET_KEY" not in added
