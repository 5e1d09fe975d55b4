"""Which part of a page a program may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack.dev.errors import DevError
from tests.bench import sections
from tests.bench.footprint.__main__ import SECTION
from tests.bench.growth.__main__ import DIMENSIONS

PAGE = (
    "before\n<!-- growth -->\nold\nlines\n<!-- /growth -->\nbetween\n<!-- other -->\n<!-- /other -->\nafter\n"
)


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    sections.write("growth", "\nnew\n\n", page)
    assert page.read_text() == PAGE.replace("old\nlines", "new")
    sections.write("growth", "newer", page)
    sections.write("other", "words", page)
    written = page.read_text()
    assert written.replace("newer\n", "old\nlines\n").replace("words\n", "") == PAGE


@pytest.mark.parametrize(
    "text", ["", "<!-- growth -->\n", "<!-- /growth -->\n<!-- growth -->\n", PAGE + PAGE]
)
def test_a_section_that_is_not_there_exactly_once_is_an_error(text: str):
    with pytest.raises(DevError, match="exactly once"):
        sections.replace(text, "growth", "new")


def test_the_page_has_a_section_for_whatever_is_measured():
    text = sections.PAGE.read_text(encoding="utf-8")
    for name in (
        "compare",
        "profile",
        "overload",
        *(f"growth-{dimension}" for dimension in DIMENSIONS),
        SECTION,
    ):
        sections.replace(text, name, "new")


def test_a_table_says_which_columns_are_figures():
    assert sections.markdown(("a", "b", "c"), [["x", "y", "1"]], words=2) == (
        "| a | b | c |\n| --- | --- | ---: |\n| x | y | 1 |"
    )
