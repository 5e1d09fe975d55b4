"""`make migration MESSAGE="add orders"`: write a migration from the difference between models and schema.

The schema is made by the migrations there are, on a throwaway Postgres, so that neither a running system nor its
data matters. Exits with the code of the command line that writes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY, Secrets
from hack.dev.ports import find_free
from hack.dev.postgres import THROWAWAY_SETTINGS, Postgres


def write_migration(message: str) -> int:
    """Write it; the exit code of the failing step, or 0."""
    with tempfile.TemporaryDirectory(prefix="migration-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres runs as another account where root asks
        secrets = Secrets.generate()
        server = Postgres(
            folder / "postgres",
            port=find_free(),
            superuser_password=secrets.postgres_superuser_password,
            app_password=secrets.postgres_app_password,
            log_path=folder / "postgres.log",
            settings=THROWAWAY_SETTINGS,
        )
        server.start()
        try:
            environment = {
                **os.environ,
                "ENVIRONMENT": "development",
                "DATABASE__DATABASE_URL": server.url(),
            }
            for arguments in (["migrate"], ["revision", message]):
                command = [sys.executable, "-m", "services.manage", *arguments]
                code = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
                if code != 0:
                    return code
        finally:
            server.discard()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        sys.exit('error: say what it does: make migration MESSAGE="add orders"')
    try:
        sys.exit(write_migration(sys.argv[1]))
    except DevError as error:
        sys.exit(error.describe())
