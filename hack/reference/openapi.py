"""`docs/openapi.json`: the API that clients were promised, written by `make openapi` and held by `make check`.

    python -m hack.reference.openapi            write it; refuses what would break a client
    python -m hack.reference.openapi --breaking write it all the same
    python -m hack.reference.openapi --check    write nothing; fail where the code and the file differ

What breaks a client is decided by oasdiff (built from its Go module by hack/tools), by its own rules and the stricter
ones of severity.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from domains.registry import PRODUCT
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Environment, Settings

from hack.tools.common import REPOSITORY, ToolError, cache_root, guarded, run, say

SNAPSHOT = REPOSITORY / "docs" / "openapi.json"
SEVERITIES = Path(__file__).with_name("severity.txt")
PROGRAM = "oasdiff"
_BREAKING_STATUS = 1


class _Defaults(Settings):
    """The settings as they are by default, whatever the environment of this machine says."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (named.get("init_settings") or sources[0],)


def rendered() -> str:
    """The OpenAPI document of the product's API, as the file holds it."""
    document = create_app(_Defaults(environment=Environment.TEST), PRODUCT).openapi()
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def program() -> Path:
    """oasdiff, built if need be; ToolError where it cannot be."""
    return Path(run([REPOSITORY / "hack" / "tools" / "install", PROGRAM]).splitlines()[-1]) / PROGRAM


def installed_program() -> Path | None:
    """oasdiff where it was built before, else None."""
    path = cache_root() / "tools" / "bin" / PROGRAM
    return path if path.exists() else None


def breaking_changes(former: Path, present: Path, *, oasdiff: Path) -> str:
    """What would break clients of the former document, one paragraph for each change; empty where nothing would."""
    return _compare("breaking", former, present, oasdiff=oasdiff)


def changes(former: Path, present: Path, *, oasdiff: Path) -> str:
    """Every change that a client can notice, one paragraph for each; empty where there is none."""
    return _compare("changelog", former, present, oasdiff=oasdiff)


def _compare(verb: str, former: Path, present: Path, *, oasdiff: Path) -> str:
    command = [str(oasdiff), verb, str(former), str(present), "--severity-levels", str(SEVERITIES)]
    if verb == "breaking":
        command += ["--fail-on", "ERR"]
    done = subprocess.run(
        [*command, "--color", "never"],
        env={**os.environ, "OASDIFF_NO_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, _BREAKING_STATUS} or done.stderr:
        raise ToolError(f"oasdiff ended with status {done.returncode}:\n{done.stderr}{done.stdout}")
    if verb == "breaking" and done.returncode == 0:
        return ""
    return done.stdout.replace(f" at {present}", "").strip()


def check(snapshot: Path, text: str, *, oasdiff: Path) -> None:
    """Holds today's document against the file; ToolError where they differ, with how and what to do."""
    if not snapshot.exists():
        raise ToolError(f"{snapshot.name} is not there", "run `make openapi` and commit the file")
    if snapshot.read_text() == text:
        return
    with tempfile.TemporaryDirectory() as folder:
        present = Path(folder) / "openapi.json"
        present.write_text(text)
        broken = breaking_changes(snapshot, present, oasdiff=oasdiff)
        if broken:
            raise ToolError(
                f"this API would break clients of the one in {snapshot.name}:\n{broken}",
                "keep the former form beside the new one; where it has to break, `make openapi BREAKING=yes`",
            )
        noticed = changes(snapshot, present, oasdiff=oasdiff) or "only what no client notices, such as a text"
        raise ToolError(
            f"{snapshot.name} is not today's API, though nothing breaks:\n{noticed}",
            "run `make openapi` and commit the file",
        )


def write(snapshot: Path, text: str, *, may_break: bool) -> None:
    """Writes the file; ToolError for a change that breaks clients, unless it may."""
    if snapshot.exists() and not may_break:
        with tempfile.TemporaryDirectory() as folder:
            present = Path(folder) / "openapi.json"
            present.write_text(text)
            broken = breaking_changes(snapshot, present, oasdiff=program())
        if broken:
            raise ToolError(
                f"this would break clients, so {snapshot.name} was left as it is:\n{broken}",
                "keep the former form beside the new one; where it has to break, `make openapi BREAKING=yes`",
            )
    snapshot.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hack.reference.openapi", description="Write docs/openapi.json."
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; fail where the API is another")
    how.add_argument("--breaking", action="store_true", help="write it though it breaks clients")
    arguments = parser.parse_args()
    text = rendered()
    if arguments.check:
        check(SNAPSHOT, text, oasdiff=program())
        say(f"{SNAPSHOT.name} is today's API")
    else:
        write(SNAPSHOT, text, may_break=arguments.breaking)
        say(f"wrote {SNAPSHOT.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    guarded(main)
