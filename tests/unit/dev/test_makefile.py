"""What the Makefile and the README promise exists."""

from __future__ import annotations

import re
import subprocess

from hack.dev.layout import REPOSITORY
from hack.dev.readme import block

MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)


def make(*arguments: str) -> str:
    result = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_help_lists_every_target_on_one_line_each() -> None:
    lines = make("help").splitlines()
    assert [line.split()[0] for line in lines] == TARGETS
    assert all(len(line) <= 110 and len(line.split()) > 2 for line in lines)


def test_help_is_what_make_alone_does() -> None:
    assert make() == make("help")


def test_every_script_that_a_target_calls_exists() -> None:
    scripts = set(re.findall(r"(?:^|\s)@?((?:hack|\.ci)/[\w./-]+)", MAKEFILE))
    modules = set(re.findall(r"-m ([\w.]+)", MAKEFILE))
    paths = scripts | {module.replace(".", "/") for module in modules}
    missing = [
        path
        for path in sorted(paths)
        if not any((REPOSITORY / name).exists() for name in (path, f"{path}.py", f"{path}/__main__.py"))
    ]
    assert missing == []


def test_every_make_target_that_a_document_names_exists() -> None:
    documents = [
        REPOSITORY / "README.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
        REPOSITORY / ".ci" / "run",
    ]
    named = {
        (document.name, target)
        for document in documents
        for target in re.findall(r"`?\bmake ([a-z][a-z-]+)(?=[`\s\n]|$)", _code(document.read_text()))
    }
    assert [name for name in sorted(named) if name[1] not in TARGETS] == []


def test_the_readme_has_the_commands_that_make_run_prints() -> None:
    commands = block(REPOSITORY / "README.md", "try-next", port=8123)
    assert "localhost:8123/auth/register" in commands
    assert "localhost:8000" not in commands


def test_everything_that_make_run_and_the_tests_leave_is_ignored_by_git() -> None:
    paths = [".venv/x", ".local/run.json", ".pytest_cache/x", ".mypy_cache/x", ".ruff_cache/x", ".coverage"]
    result = subprocess.run(
        ["git", "check-ignore", *paths], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == paths


def _code(text: str) -> str:
    """Only what stands in code: `make run` in a fence or between backquotes, not "make sure" in a sentence."""
    fences = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", text)
    return "\n".join(fences + spans) if fences or spans else text
