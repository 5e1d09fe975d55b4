"""Settings and secrets: what is missing, misspelt, a default, or too weak."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError

from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.infra.settings import Environment, Settings
from scalable_fastapi_system.infra.settings.loading import explain
from scalable_fastapi_system.infra.settings.models import DEFAULT_SECRET_KEY

AREA = "settings"
WEAK_PASSWORDS = frozenset(
    {"", "admin", "app", "changeme", "change-me", "guest", "pass", "password", "postgres", "redis", "root",
     "secret", "test"}
)  # fmt: skip
MIN_PASSWORD_LENGTH = 12
MIN_DISTINCT_CHARACTERS = 8
_UNSAFE = "not safe in production: "


def examine_settings(report: Report) -> Settings | None:
    """The settings to look at everything else with; None where they cannot be read at all."""
    _look_for_names_that_nothing_reads(report, os.environ)
    try:
        settings = Settings()
    except ValidationError as error:
        for line in explain(error).splitlines()[1:]:
            _tell(report, line.strip())
        return _despite_unsafe_values()
    except ValueError as error:  # a variable that should be JSON and is not
        report.problem(AREA, f"The settings cannot be read: {error}", "Correct that variable.")
        return None
    _look_at_secrets(report, settings)
    _look_at_files(report, settings)
    if settings.is_production:
        report.ok(AREA, "The settings are usable, and safe for production.")
    else:
        report.note(
            AREA,
            f"ENVIRONMENT is {settings.environment}: unsafe defaults are accepted.",
            "Set ENVIRONMENT=production for anything that others can reach.",
        )
    return settings


def _despite_unsafe_values() -> Settings | None:
    """What production refuses, development takes: so the stores are looked at in the same run."""
    try:
        return Settings(environment=Environment.DEVELOPMENT)
    except ValueError:
        return None


def _tell(report: Report, line: str) -> None:
    if line.startswith(_UNSAFE):
        for part in line.removeprefix(_UNSAFE).split("; "):
            what, _, advice = part.partition(": ")
            report.problem(AREA, f"{what}.", f"{advice[:1].upper()}{advice[1:]}.")
        return
    variable = line.partition(":")[0]
    near = difflib.get_close_matches(variable, list(known_variables()), n=1, cutoff=0.6)
    if variable in near or not near or "no such setting" not in line:
        step = f"Correct {variable}; `python -m services.manage config` shows what is in force once it can be read."
    else:
        step = f"Did you mean {near[0]}? Rename it or remove it."
    report.problem(AREA, f"{line}.", step)


def known_variables() -> Iterator[str]:
    """Every setting by its name in the environment."""
    yield from (name for name, _ in _variables(Settings, ()))


def _variables(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _variables(kind, (*path, name))
        else:
            yield "__".join((*path, name)).upper(), name.upper()


def _look_for_names_that_nothing_reads(report: Report, environment: Mapping[str, str]) -> None:
    """Names that look like settings and are none: one underscore for two, a section misspelt, the section left out."""
    known = dict(_variables(Settings, ()))
    sections = {name.partition("__")[0] for name in known if "__" in name}
    meant = {name.replace("__", "_"): name for name in known if "__" in name}
    meant |= {leaf: name for name, leaf in known.items() if "__" in name and "_" in leaf}
    for name in sorted(environment):
        upper = name.upper()
        section, separator, _ = upper.partition("__")
        if upper in known or (separator and section in sections):
            continue  # read, or refused by name when the settings are
        if upper in meant:
            report.warning(
                AREA, f"{name} is set, and nothing reads it.", f"The setting is called {meant[upper]}."
            )
        elif separator and (near := difflib.get_close_matches(section, sections, n=1, cutoff=0.8)):
            report.warning(
                AREA, f"{name} is set, and nothing reads it.", f"Did you mean the section {near[0]}__…?"
            )


def _look_at_secrets(report: Report, settings: Settings) -> None:
    key = str(settings.security.secret_key)
    if key == DEFAULT_SECRET_KEY:
        report.warning(
            AREA,
            "SECURITY__SECRET_KEY is the one in the sources, which everybody knows.",
            "Set one of your own: `openssl rand -hex 32`.",
        )
    elif len(set(key)) < MIN_DISTINCT_CHARACTERS:
        report.problem(
            AREA,
            f"SECURITY__SECRET_KEY has only {len(set(key))} different characters: it can be guessed.",
            "Make a random one: `openssl rand -hex 32`. Put the old one into SECURITY__PREVIOUS_SECRET_KEYS until "
            "its tokens have run out.",
        )
    _look_at_password(report, "DATABASE__DATABASE_URL", str(settings.database.database_url))
    if settings.database.replica_url is not None:
        _look_at_password(report, "DATABASE__REPLICA_URL", str(settings.database.replica_url))
    if settings.redis.redis_url is None:
        report.note(
            AREA,
            "REDIS__REDIS_URL is not set: each process has its own cache and its own count for rate limits.",
            "Right for one process. With more than one, give them a Redis.",
        )
    else:
        _look_at_password(report, "REDIS__REDIS_URL", str(settings.redis.redis_url))


def _look_at_password(report: Report, variable: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.hostname is None or parts.hostname in {"localhost", "127.0.0.1", "::1"}:
        return  # a socket or this machine: who may connect is settled elsewhere
    password = unquote(parts.password or "")
    if password.lower() in WEAK_PASSWORDS:
        what = "has no password" if not password else "has a password that everybody tries first"
        report.problem(AREA, f"{variable} {what}.", "Set a random one there and in the server.")
    elif len(password) < MIN_PASSWORD_LENGTH:
        report.warning(
            AREA,
            f"The password in {variable} has only {len(password)} characters.",
            f"Take a random one of at least {MIN_PASSWORD_LENGTH}.",
        )


def _look_at_files(report: Report, settings: Settings) -> None:
    for variable, path in (
        ("SECURITY__SIGNING_KEYS_FILE", settings.security.signing_keys_file),
        ("FLAGS__FILE", settings.flags.file),
    ):
        if path is not None and not os.access(path, os.R_OK):
            report.problem(
                AREA,
                f"{variable} names {path}, which is not there or not readable.",
                "Mount the file (api.extraVolumes and worker.extraVolumes in the chart), or correct the path.",
            )
