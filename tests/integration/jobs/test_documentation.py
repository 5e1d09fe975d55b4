"""What docs/jobs.md shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.testing import run_job

PAGE = (Path(__file__).parents[3] / "docs" / "jobs.md").read_text()


def block(marker: str) -> str:
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```\n", PAGE, re.DOTALL)
    assert found is not None, f"the page has no block marked {marker!r}"
    return found[1]


def test_the_example_prints_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(block("example: orders.py"))
    environment = {name: value for name, value in os.environ.items() if "__" not in name}
    done = subprocess.run(
        [sys.executable, "orders.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == block("output: orders.py")


async def test_the_handlers_of_the_example_run_inline() -> None:
    names: dict[str, object] = {"__name__": "orders_of_the_page"}
    exec(compile(block("example: orders.py").replace('@job("', '@job("page.'), "orders.py", "exec"), names)
    assert await run_job(names["pack"], order_id=2) == "box 2"  # type: ignore[arg-type]


def test_every_metric_is_listed() -> None:
    for name, one in vars(metrics).items():
        samples = getattr(one, "_name", None)
        if name.startswith("_") or not isinstance(samples, str):
            continue
        full = f"{samples}_total" if type(one).__name__ == "Counter" else samples
        assert f"`{full}`" in PAGE, full
