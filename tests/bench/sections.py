"""The parts of docs/performance.md that a program writes: what stands between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from tests.bench.machine import describe

PAGE = REPOSITORY / "docs" / "performance.md"


def replace(text: str, name: str, body: str) -> str:
    """The text with this body in the section. Raises DevError where the section is not there exactly once."""
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found_opening, rest = text.partition(opening)
    _, found_closing, after = rest.partition(closing)
    if not found_opening or not found_closing or opening in after:
        raise DevError(f"the section between {opening.strip()} and {closing} is not there exactly once")
    return f"{before}{opening}{body.strip()}\n{closing}{after}"


def write(name: str, body: str, page: Path = PAGE) -> None:
    """Puts the body into the section of the page."""
    page.write_text(replace(page.read_text(encoding="utf-8"), name, body), encoding="utf-8")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table whose first `words` columns are words and the others figures."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def origin(command: str, load_before: float) -> str:
    """When, by which command and on what the figures beside it were measured, as one line."""
    facts = describe()
    return (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {facts['processor']}, {facts['system']}, "
        f"Python {facts['python']}; load average before it {load_before:.1f} "
        f"and after it {os.getloadavg()[0]:.1f}."
    )
