"""The README's own command lines, so that what `make run` prints and what a release tries is what it says.

A block is the first ```bash block after the comment `<!-- NAME -->`. DevError when it is not there.
"""

from __future__ import annotations

import re
from pathlib import Path

from hack.dev.errors import DevError

ADDRESS = "localhost:8000"


def block(readme: Path, name: str, *, port: int) -> str:
    """The commands of a block, for an API on `port`."""
    text = readme.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {re.escape(name)} -->\s*```bash\n(.*?)```", text, re.DOTALL)
    if found is None:
        raise DevError(f"{readme.name} has no bash block after <!-- {name} -->")
    return found[1].replace(ADDRESS, f"localhost:{port}").rstrip()
