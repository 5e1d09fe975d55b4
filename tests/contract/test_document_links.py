"""Whoever looks for a page finds it: docs/README.md lists them all, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [
    REPOSITORY / "README.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((REPOSITORY / "charts").rglob("README.md")),
]


def links(page: Path) -> list[str]:
    """Where the page's links lead, but for what is on the web."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The names under which the page's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead(page: Path) -> list[str]:
    """The links of the page that lead nowhere."""
    found = []
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_link_leads_nowhere(page: Path) -> None:
    assert dead(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n\n[a](#one-heading) [b](page.md#another) [c](gone.md) [d](https://example.com)\n"
    )
    assert dead(page) == ["page.md#another", "gone.md"]


def test_the_index_lists_every_page_once() -> None:
    listed = [link for link in links(DOCS / "README.md") if not link.startswith("..")]
    pages = {path.name for path in DOCS.iterdir() if path.is_file() and path.name != "README.md"}
    wanted = pages | {"runbooks/README.md"}
    assert wanted - set(listed) == set(), "a new page needs its line in docs/README.md"
    assert sorted(listed) == sorted(wanted)


def test_the_readme_leads_to_the_index() -> None:
    assert "docs/README.md" in links(REPOSITORY / "README.md")
