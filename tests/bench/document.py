"""Writes what was measured into docs/performance.md, between two marks that name it.

What stands between `<!-- bench: NAME -->` and `<!-- bench: end -->` belongs to the command that writes it; the rest of the
page belongs to its authors. Nothing is written where the marks are missing: DevError.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from tests.bench.machine import describe

PAGE = REPOSITORY / "docs/performance.md"
IMAGES = REPOSITORY / "docs/images"
_END = "<!-- bench: end -->"


def write_section(name: str, text: str, *, page: Path = PAGE) -> None:
    """Puts `text` (Markdown) in place of what stands between the marks of `name`."""
    begin = f"<!-- bench: {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(_END)
    if not (found and ended):
        raise DevError(f"{page.name} has no section between {begin} and {_END}")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{_END}{after}", encoding="utf-8")


def provenance(target: str, arguments: Sequence[str], *, load_before: float) -> str:
    """A sentence for the reader: when, by which command (`make target`) and on what it was measured."""
    command = f"make {target}" + (f' ARGS="{shlex.join(arguments)}"' if arguments else "")
    facts = describe()
    system = re.sub(r"(\d+\.\d+).*", r"\1", facts["system"])
    return (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {facts['processor']}, {system}, Python {facts['python']}, "
        f"load {load_before:.1f} before."
    )


def paragraph(text: str) -> str:
    """The text in lines as the page has them."""
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)
