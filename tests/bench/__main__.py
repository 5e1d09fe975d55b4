"""`python -m tests.bench`: the platform beside its limits."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from hack.dev.errors import DevError
from tests.bench import report, sections
from tests.bench.compare import Plan, compare
from tests.bench.load import MAX_SECONDS
from tests.bench.machine import check_machine, describe
from tests.bench.picture import picture
from tests.bench.stores import Stores
from tests.bench.works import TARGETS, WORKS

_IMAGE = "![Requests a second by work and target](images/bench.svg)"


def main() -> int:
    """Exit code 0 where every ratio that is asked for is reached, 1 where one is not, 2 where nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated")
    parser.add_argument("--works", default=",".join(work.name for work in WORKS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help=f"of one turn, at most {MAX_SECONDS}")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--tries", type=int, default=3, help="of a turn that others' programs disturb")
    parser.add_argument("--postgres", help="a running server's URL, of a role that makes databases")
    parser.add_argument("--redis", help="a running server's URL")
    parser.add_argument("--json", type=Path, help="writes every sample there")
    parser.add_argument(
        "--write", action="store_true", help="writes table and picture into docs/performance.md"
    )
    arguments = parser.parse_args()
    plan = Plan(
        targets=_known(parser, arguments.targets, TARGETS),
        works=_known(parser, arguments.works, [work.name for work in WORKS]),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        connections=arguments.connections,
        tries=arguments.tries,
    )
    try:
        check_machine()
        load_before = os.getloadavg()[0]
        with Stores(postgres_url=arguments.postgres, redis_url=arguments.redis) as stores:
            rows = compare(plan, stores)
    except DevError as error:
        print(error.describe(), file=sys.stderr)
        return 2
    print(report.table(rows))
    print()
    print(report.conditions(rows, plan))
    if arguments.json:
        facts = {**describe(), "at": datetime.now(UTC).isoformat(), "load_before": load_before}
        arguments.json.write_text(json.dumps({**facts, "rows": [row.as_json() for row in rows]}, indent=1))
    if arguments.write:
        (sections.IMAGES / "bench.svg").write_text(picture(rows), encoding="utf-8")
        measured = sections.origin("bench", load_before)
        conditions = sections.paragraph(f"{measured} {report.conditions(rows, plan)}")
        sections.write("compare", f"{conditions}\n\n{_IMAGE}\n\n{report.table(rows)}")
    problems = report.failures(rows)
    for problem in problems:
        print(f"not reached: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _known(parser: argparse.ArgumentParser, text: str, known: object) -> list[str]:
    names = list(known)  # type: ignore[call-overload]
    chosen = [name for name in text.split(",") if name]
    for name in chosen:
        if name not in names:
            parser.error(f"{name} is not one of {', '.join(names)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
