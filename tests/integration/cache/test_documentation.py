"""What docs/caching.md shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scalable_fastapi_system.infra.cache import CacheManager, metrics

PAGE = (Path(__file__).parents[3] / "docs" / "caching.md").read_text()


def block(marker: str) -> str:
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```\n", PAGE, re.DOTALL)
    assert found is not None, f"the page has no block marked {marker!r}"
    return found[1]


def test_the_example_prints_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("example: shop.py"))
    environment = {name: value for name, value in os.environ.items() if "__" not in name}
    done = subprocess.run(
        [sys.executable, "shop.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == block("output: shop.py")


def test_the_page_names_every_operation_and_only_what_there_is() -> None:
    rows = PAGE.split("## Keys by hand")[1].split("\n- ")[0]
    named = {name for name in re.findall(r"`(\w+)\(", rows) if name != "on_commit"}
    assert named - set(dir(CacheManager)) == set()
    operations = {
        "get",
        "get_many",
        "set",
        "set_many",
        "get_or_load",
        "delete",
        "invalidate_tag",
        "delete_prefix",
    }
    assert operations | {"clear", "warm"} == named


def test_every_metric_is_listed() -> None:
    counters = {
        getattr(one, "_name", None) for one in vars(metrics).values() if type(one).__name__ == "Counter"
    }
    named = {f"{name}_total" for name in counters if isinstance(name, str)}
    assert {name for name in named if f"`{name}`" in PAGE} == named
    assert "cache_reads_total" in named
