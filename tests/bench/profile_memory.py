"""How much memory and time the profile of a large table takes: `python -m tests.bench.profile_memory [MB]`.

Writes a table of so many megabytes (200 by default), profiles it in a process of its own, and prints the peak
of that process's resident memory (VmHWM), of its disk use, and the seconds.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MB = 1_000_000


def write_table(path: Path, size_bytes: int) -> dict[str, Any]:
    """A table with all that is costly: ids that never repeat, long text, quoted line breaks, gaps. Gives its facts."""
    dice = random.Random(20)
    rows = missing = 0
    total = 0.0
    categories: dict[str, int] = {}
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        written += file.write("id,at,session,category,amount,is_paid,note\n")
        while written < size_bytes:
            lines = []
            for _ in range(1000):
                session = hashlib.blake2b(rows.to_bytes(8, "big"), digest_size=12).hexdigest()
                category = f"category {min(int(dice.expovariate(0.3)), 40)}"
                categories[category] = categories.get(category, 0) + 1
                amount = "" if dice.random() < 0.05 else f"{dice.lognormvariate(3, 1):.2f}"
                missing += amount == ""
                total += float(amount or 0)
                note = (
                    '"several lines,\r\nwith a ""quote"" in them"' if rows % 50 == 0 else f"note {rows % 997}"
                )
                moment = f"2026-{1 + rows % 12:02}-{1 + rows % 28:02} {rows % 24:02}:00:00"
                lines.append(
                    f"{rows},{moment},{session},{category},{amount},{'true' if rows % 3 else 'false'},{note}\n"
                )
                rows += 1
            written += file.write("".join(lines))
    top = max(categories.items(), key=lambda item: item[1])
    return {"rows": rows, "missing": missing, "mean": total / (rows - missing), "top": list(top)}


def profile(source: Path, answer: Connection) -> None:
    """In the child: profiles, and answers with the profile, the peaks and the seconds."""
    from domains.datasets.profiling import ProfileRun

    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        run = ProfileRun(Path(folder))
        run.source.hardlink_to(source)
        started = time.monotonic()
        seen: list[float] = []
        disk_bytes = 0
        result: list[dict[str, Any]] = []
        worker = threading.Thread(target=lambda: result.append(run.run()))
        worker.start()
        while worker.is_alive():
            worker.join(0.05)
            seen.append(run.fraction)
            found = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
            disk_bytes = max(disk_bytes, sum(found))
        seconds = time.monotonic() - started
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    answer.send(
        {
            "profile": result[0],
            "peak_bytes": peak,
            "disk_bytes": disk_bytes,
            "seconds": seconds,
            "fractions": seen,
        }
    )


def measure(source: Path) -> dict[str, Any]:
    """Profiles the file in a fresh process. Raises EOFError where that process died."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=profile, args=(source, there))
    child.start()
    there.close()
    try:
        answer: dict[str, Any] = here.recv()
    finally:
        child.join()
    return answer


def main() -> None:
    size = int(sys.argv[1]) * MB if len(sys.argv) > 1 else 200 * MB
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "large.csv"
        facts = write_table(source, size)
        size = source.stat().st_size
        measured = measure(source)
    shown = {name: measured[name] for name in ("peak_bytes", "disk_bytes", "seconds")}
    print(json.dumps({"size_bytes": size, "rows": facts["rows"], **shown}, indent=2))


if __name__ == "__main__":
    main()
