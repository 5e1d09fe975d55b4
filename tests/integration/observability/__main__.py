"""The pictures of the docs: `python -m tests.integration.observability docs/images`.

Starts the system and a Prometheus as the tests do, puts the same load on it a few times, and draws the dashboards.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from grafana.source.picture import source_of, write
from tests.integration.observability.observed import NotObservedError, observed
from tests.integration.observability.traffic import Traffic
from tests.unit.monitoring.promql import NAMESPACE

ROUNDS = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.observability")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    target: Path = parser.parse_args().folder
    folder = Path(tempfile.mkdtemp(prefix="observed-"))
    folder.chmod(0o711)  # Postgres runs as another account where root runs this
    try:
        with observed(folder) as system:
            for number in range(1, ROUNDS + 1):
                Traffic(system, user=f"user{number}").run()
                sys.stdout.write(f"round {number} of {ROUNDS} is done\n")
            source = source_of(system.prometheus_url, NAMESPACE, "15s", system.began, time.time())
            for path in write(target, source):
                sys.stdout.write(f"{path}: {path.stat().st_size // 1024} KiB\n")
    except NotObservedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
