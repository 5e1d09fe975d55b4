"""docs/guide.md and docs/requirements.md: no empty cell, and every place and test that they name exists.

docs/databases.md: the tests that run on one kind of database alone are the ones that it lists.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "packages/scalable_fastapi_system/src/scalable_fastapi_system"
GUIDE = REPOSITORY / "docs/guide.md"
REQUIREMENTS = REPOSITORY / "docs/requirements.md"
DATABASES = REPOSITORY / "docs/databases.md"
# The guide's sections that show something to do, by its own headings.
HEADINGS = {
    "Configuration: basic", "Configuration: environment-based", "Database manager setup", "Model definition",
    "Database operations", "Cache manager setup", "Cache decorators", "Advanced caching strategies",
    "Authentication setup", "Authentication routes", "Rate limiting", "Metrics setup", "Health checks",
    "Request logging", "Complete middleware configuration", "Custom middleware", "Task management",
    "Global exception handlers", "Custom error classes", "Unit tests, integration tests", "Docker configuration",
    "Docker Compose", "Production configuration", "Database optimization", "Caching optimization",
    "Input validation", "SQL injection prevention", "XSS prevention",
}  # fmt: skip


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of the page's tables, without their heads."""
    found: list[list[str]] = []
    lines = page.read_text().splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("| ") and not line.startswith("| ---") and not following.startswith("| ---"):
            found.append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
    return found


@cache
def names_of_tests(place: Path) -> frozenset[str]:
    """The names of the tests in a file, or in the files of a folder."""
    files = [place] if place.is_file() else place.rglob("*.py")
    return frozenset(name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text()))


def named_tests(cell: str, *, in_contract: bool) -> Iterator[tuple[Path, str | None]]:
    """File (or folder) and test of everything in backticks that names one."""
    for token in re.findall(r"`([^`]+)`", cell):
        place, _, name = token.partition("::")
        if place.startswith("tests/"):
            yield REPOSITORY / place, name or None
        elif in_contract and place.endswith(".py"):
            yield REPOSITORY / "tests/contract" / place, name or None
        elif in_contract and place.startswith("test_"):
            yield REPOSITORY / "tests/contract/test_guide_examples.py", place


def wrong(cell: str, *, in_contract: bool = False) -> list[str]:
    """What the cell names and is not there."""
    problems = []
    for place, name in named_tests(cell, in_contract=in_contract):
        if not place.exists():
            problems.append(f"there is no {place.relative_to(REPOSITORY)}")
        elif name is not None and name not in names_of_tests(place):
            problems.append(f"there is no {name} in {place.relative_to(REPOSITORY)}")
        elif name is None and not names_of_tests(place) and "chaos" not in place.parts:
            problems.append(f"there is no test in {place.relative_to(REPOSITORY)}")
    return problems


def kinds_and_reasons(mark: ast.expr, named: dict[str, ast.expr]) -> Iterator[tuple[str, str]]:
    """Kinds and reason of a mark `only_on`, of one by its name in the module, or of those in a list."""
    if isinstance(mark, ast.Name) and mark.id in named:
        mark = named[mark.id]
    for one in mark.elts if isinstance(mark, ast.List) else [mark]:
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.only_on":
            kinds = ", ".join(ast.literal_eval(kind) for kind in one.args)
            yield kinds, ast.literal_eval(one.keywords[0].value)


def marked_only_on() -> Counter[tuple[str, str, str]]:
    """How many test functions of a file run on some kinds of database alone, by file, kinds and reason."""
    found: Counter[tuple[str, str, str]] = Counter()
    for folder in ("integration", "contract"):
        for file in (REPOSITORY / "tests" / folder).rglob("test_*.py"):
            module = ast.parse(file.read_text())
            assigned = [one for one in module.body if isinstance(one, ast.Assign)]
            named = {ast.unparse(one.targets[0]): one.value for one in assigned}
            for test in module.body:
                if not getattr(test, "name", "").startswith("test_"):
                    continue
                assert isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef)
                marks = [*test.decorator_list, *([named["pytestmark"]] if "pytestmark" in named else [])]
                for mark in marks:
                    for kinds, reason in kinds_and_reasons(mark, named):
                        found[str(file.relative_to(REPOSITORY)), kinds, reason] += 1
    return found


def test_the_page_of_databases_lists_the_tests_of_one_kind() -> None:
    listed = {
        (file.strip("`"), kinds, why): int(count)
        for file, count, kinds, why in (row for row in rows(DATABASES) if row[0].startswith("`tests/"))
    }
    assert listed == marked_only_on()


def test_the_guide_s_table_has_every_heading_and_no_empty_cell() -> None:
    table = rows(GUIDE)
    assert {row[0] for row in table} == HEADINGS
    assert len(table) == len(HEADINGS)
    assert [row for row in table if len(row) != 3 or not all(re.search(r"\w", cell) for cell in row)] == []


@pytest.mark.parametrize("row", rows(GUIDE), ids=lambda row: row[0])
def test_what_the_guide_s_table_names_exists(row: list[str]) -> None:
    _, where, shown_by = row
    assert wrong(shown_by, in_contract=True) == []
    assert list(named_tests(shown_by, in_contract=True)) or shown_by == "the same"
    places = re.findall(r"`([^`]+)`", where)
    assert places
    for place in places:
        assert [*LIBRARY.glob(place), *REPOSITORY.glob(place)], f"there is no {place}"


def test_the_requirements_are_forty_rows_with_no_empty_cell() -> None:
    table = rows(REQUIREMENTS)
    assert [row[0] for row in table] == [str(number) for number in range(1, 41)]
    assert [row for row in table if len(row) != 4 or not all(row)] == []


@pytest.mark.parametrize("row", rows(REQUIREMENTS), ids=lambda row: row[0])
def test_what_a_requirement_names_exists(row: list[str]) -> None:
    _, _, shown_by, _ = row
    assert list(named_tests(shown_by, in_contract=False))
    assert wrong(shown_by) == []


def test_a_test_that_does_not_exist_is_found() -> None:
    assert wrong("`tests/contract/test_documents.py::test_nothing`") == [
        "there is no test_nothing in tests/contract/test_documents.py"
    ]
    assert wrong("`tests/nowhere/`") == ["there is no tests/nowhere"]
    assert wrong("`test_nothing_at_all`", in_contract=True) == [
        "there is no test_nothing_at_all in tests/contract/test_guide_examples.py"
    ]
    assert wrong("`tests/contract/`, `tests/contract/test_documents.py`") == []
