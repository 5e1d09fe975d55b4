"""What the doctor says of settings and secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scalable_fastapi_system.doctor.settings_checks import known_variables

REPOSITORY = Path(__file__).resolve().parents[3]
NOWHERE = "redis://127.0.0.1:1"


def test_everything_unsafe_is_told_at_once_and_the_stores_are_looked_at_all_the_same(ask):
    answer = ask(
        ENVIRONMENT="production", SECURITY__SECRET_KEY="short", API__DEBUG="true", REDIS__REDIS_URL=NOWHERE
    )
    assert answer.code == 1
    problems = answer.of("settings", "problem")
    assert "SECURITY__SECRET_KEY is a default or shorter than 32 characters" in problems
    assert "openssl rand -hex 32" in problems
    assert "DATABASE__DATABASE_URL is not set" in problems
    assert "API__DEBUG" in problems
    assert "refuses connections" in answer.of("redis", "problem")


def test_a_misspelt_setting_is_told_with_the_right_name(ask):
    answer = ask(DATABASE__POOLSIZE="3")
    assert answer.code == 1
    assert "Did you mean DATABASE__POOL_SIZE?" in answer.of("settings", "problem")


def test_a_value_out_of_bounds_is_told_by_name(ask):
    answer = ask(DATABASE__POOL_SIZE="0", REDIS__REDIS_URL="http://redis")
    assert "DATABASE__POOL_SIZE" in answer.of("settings", "problem")
    assert "REDIS__REDIS_URL" in answer.of("settings", "problem")
    assert answer.code == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABASE_URL", "DATABASE__DATABASE_URL"),
        ("SECRET_KEY", "SECURITY__SECRET_KEY"),
        ("DATABASE_POOL_SIZE", "DATABASE__POOL_SIZE"),
        ("REDSI__REDIS_URL", "REDIS__"),
    ],
)
def test_a_name_that_nothing_reads_is_told(ask, name, meant):
    answer = ask(**{name: "x"})
    assert f"{name} is set, and nothing reads it" in answer.of("settings", "warning")
    assert meant in answer.of("settings", "warning")
    assert answer.code == 0
    assert ask("--strict", **{name: "x"}).code == 1


def test_the_names_of_other_programs_are_let_be(ask):
    answer = ask(POSTGRES_PASSWORD="x", REDIS_PASSWORD="x", OTEL_EXPORTER_OTLP_ENDPOINT="x", SFS__OTHER="x")
    assert answer.of("settings", "warning") == ""


def test_a_key_that_is_long_and_says_nothing_is_refused(ask):
    assert "only 1 different characters" in ask(SECURITY__SECRET_KEY="k" * 40).of("settings", "problem")


def test_the_key_of_the_sources_is_told_in_development(ask, monkeypatch):
    from scalable_fastapi_system.infra.settings.models import DEFAULT_SECRET_KEY

    assert "everybody knows" in ask(SECURITY__SECRET_KEY=DEFAULT_SECRET_KEY).of("settings", "warning")


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        ("redis://cache.invalid", "problem", "has no password"),
        ("redis://:changeme@cache.invalid", "problem", "everybody tries first"),
        ("redis://:k3v9x@cache.invalid", "warning", "has only 5 characters"),
    ],
)
def test_a_weak_password_is_told_and_not_shown(ask, url, level, words):
    answer = ask(REDIS__REDIS_URL=url)
    assert words in answer.of("settings", level)
    assert "k3v9x" not in answer.text
    assert "DNS does not know the name cache.invalid" in answer.of("redis", "problem")


def test_a_file_that_is_not_mounted_is_told(ask):
    answer = ask(FLAGS__FILE="/nowhere/flags.yaml")
    assert "FLAGS__FILE names /nowhere/flags.yaml" in answer.of("settings", "problem")


def test_the_known_names_are_those_of_the_settings():
    names = set(known_variables())
    assert {"ENVIRONMENT", "DATABASE__DATABASE_URL", "OIDC__PROVIDERS", "JOBS__QUEUES"} <= names


def test_the_command_answers_people_and_exits_one(tmp_path):
    python_path = os.pathsep.join(
        str(REPOSITORY / part)
        for part in ("", "packages/scalable_fastapi_system/src", "packages/domains/src")
    )
    done = subprocess.run(
        [sys.executable, "-m", "services.manage", "doctor"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": python_path, "REDIS__REDIS_URL": NOWHERE},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("problem  redis") and "refuses connections" in line for line in lines)
    assert lines[-1].startswith("1 problems")
