"""The parts of docs/performance.md that a program writes: what stands between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from tests.bench.machine import describe

PAGE = REPOSITORY / "docs" / "performance.md"
IMAGES = REPOSITORY / "docs" / "images"


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


def paragraph(text: str) -> str:
    """The text in lines as the page has them."""
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)


def origin(target: str, load_before: float) -> str:
    """When, by which command (`make target` with this process's arguments) and on what something was measured."""
    given = [word for word in sys.argv[1:] if word != "--write"]
    command = f"make {target}" + (f' ARGS="{shlex.join(given)}"' if given else "")
    facts = describe()
    system = re.sub(r"(\d+\.\d+).*", r"\1", facts["system"])
    return (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {facts['processor']}, {system}, Python {facts['python']}; "
        f"load average before it {load_before:.1f} and after it {os.getloadavg()[0]:.1f}."
    )
