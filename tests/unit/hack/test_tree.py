"""What may not stand in any file of the repository."""

from __future__ import annotations

import re
import subprocess

import pytest

from hack.dev.layout import REPOSITORY

# In two halves, so that this file does not name them either.
REGISTRIES = [
    first + second
    for first, second in (
        ("pypi", ".org"),
        ("files.python", "hosted.org"),
        ("proxy.golang", ".org"),
        ("registry.npm", "js.org"),
        ("static.crates", ".io"),
        ("repo.maven.", "apache.org"),
    )
]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    """Pins are by hash and take their place from the machine's own settings, so that any mirror will do."""
    pattern = [argument for host in REGISTRIES for argument in ("-e", host)]
    found = git("grep", "--fixed-strings", "--files-with-matches", "-I", *pattern)
    assert (found.returncode, found.stdout) == (1, ""), found.stdout


@pytest.mark.parametrize("name", [".env", "compose/.env", "compose/tls/tls.key", "compose.override.yaml"])
def test_what_the_pages_have_people_write_is_not_committed(name: str) -> None:
    assert git("check-ignore", "--no-index", name).stdout.strip() == name


def test_no_file_that_is_committed_is_ignored() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""


# Bash 4 and later have these; macOS comes with 3.2.
NEWER_BASH = re.compile(
    r"\b(mapfile|readarray|coproc)\b|\b(declare|local|typeset) -\w*[Agn]|\$\{\w+(\[@\])?[,^@]|&>>|\|&"
)
NOT_ON_MACOS = (".ci/", "hack/ci/", "hack/hostkube/")


def test_scripts_that_people_run_need_no_newer_bash_than_macos_has() -> None:
    scripts = git("grep", "--files-with-matches", "-I", "-E", "^#!.*bash|^SHELL := bash").stdout.split()
    assert {"Makefile", "compose/init", "compose/upgrade", "hack/dev/setup"} <= set(scripts)
    for name in scripts:
        if not name.startswith(NOT_ON_MACOS):
            code = re.sub(r"(^|\s)#.*", "", (REPOSITORY / name).read_text(encoding="utf-8"))
            assert not (found := NEWER_BASH.search(code)), f"{name}: {found[0]}"


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What git says of this checkout; the test is skipped where it reads none."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        pytest.skip(f"git does not read this checkout: {done.stderr.strip()}")
    return done
