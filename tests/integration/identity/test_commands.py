"""The operators' commands, as an operator runs them: on a migrated database, by the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.cli import main
from scalable_fastapi_system.identity.keys import KeyFile

from tests.integration.identity.conftest import PASSWORD, start_api

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    database_environment: dict[str, str],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setenv("ENVIRONMENT", "test")
    for name, value in database_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REDIS__REDIS_URL", redis_url)
    monkeypatch.setenv("SECURITY__BCRYPT_ROUNDS", "4")

    def command(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_first_administrator_is_made_by_a_command(run: Run) -> None:
    code, out, _ = run(
        "user", "create", "root_user", "root@example.com", "--role", "admin", typed=f"{PASSWORD}\n"
    )
    assert code == 0
    assert "root_user (admin)" in out
    assert run("user", "list")[1] == "1\troot_user\troot@example.com\tadmin\tactive\n"


def test_user_that_cannot_be_is_refused_with_the_reason(run: Run) -> None:
    code, _, err = run("user", "create", "ab", "nobody", typed="short\n")
    assert code == 1
    assert "username: Username must be at least 3 characters" in err
    assert "password: Password must be at least 8 characters" in err
    run("user", "create", "ada", "ada@example.com", typed=f"{PASSWORD}\n")
    code, _, err = run("user", "create", "Ada", "other@example.com", typed=f"{PASSWORD}\n")
    assert (code, err) == (1, "Username or email already registered\n")


def test_database_that_does_not_answer_is_no_refusal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE__DATABASE_URL", "postgresql+asyncpg://u:p@127.0.0.1:1/nobody")
    code, out, err = run("user", "list")
    assert (code, out, err) == (5, "", "The database cannot be reached at the moment\n")


def test_user_is_appointed_disabled_and_enabled(run: Run) -> None:
    run("user", "create", "ada", "ada@example.com", typed=f"{PASSWORD}\n")
    assert run("user", "set-role", "ADA", "admin")[1] == "ada is admin and active.\n"
    assert run("user", "disable", "ada@example.com")[1] == "ada is admin and disabled.\n"
    assert run("user", "enable", "ada")[1] == "ada is admin and active.\n"
    assert run("user", "disable", "nobody") == (1, "", "There is no user 'nobody'.\n")


async def test_running_replica_hears_of_a_user_that_was_disabled_by_command(
    run: Run, make_settings: Callable[..., Any], database_section: dict[str, Any], redis_url: str
) -> None:
    import asyncio

    settings = make_settings(
        database=database_section,
        redis={"redis_url": redis_url},
        security={"revocation_delay_seconds": 60},
    )
    async with start_api(settings) as api:
        async with asyncio.timeout(10):
            while not api.identity.changes.is_listening:
                await asyncio.sleep(0.02)
        account = await api.account("ada")
        assert (await account.call("GET", "/users/me")).status_code == 200
        code, _, _ = await asyncio.to_thread(run, "user", "disable", "ada")
        assert code == 0
        async with asyncio.timeout(30):
            while (await account.call("GET", "/users/me")).status_code == 200:
                await asyncio.sleep(0.02)


def test_database_that_would_go_with_the_command_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE__DATABASE_URL")
    code, _, err = run("user", "list")
    assert code == 1
    assert "DATABASE__DATABASE_URL" in err


def test_printed_signing_key_is_one_that_signs(run: Run, tmp_path: Path) -> None:
    for algorithm in ("ES256", "EdDSA", "RS256"):
        code, out, _ = run("signing-key", "--algorithm", algorithm)
        assert code == 0
        file = tmp_path / f"{algorithm}.json"
        file.write_text(json.dumps({"keys": [json.loads(out)]}))
        assert KeyFile(file, algorithm=algorithm).signer().can_sign
