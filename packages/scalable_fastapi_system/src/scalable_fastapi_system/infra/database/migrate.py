"""Schema migrations: Alembic under a lock, one linear history each for the platform and for the product.

Two histories, so that an upgrade of the platform never gives the product a second head to merge. The
platform's runs first; the product's tables may refer to the platform's. A database that is ahead of the code
(after a rollback of a release) is accepted as it is.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import scalable_fastapi_system.migrations as platform_migrations

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database.manager import DatabaseManager

# Any constant will do as long as every version of the platform uses the same one.
_LOCK_KEY = 0x5FA5_7A91
_LOCK_NAME = "scalable_fastapi_system_migrate"

State = Literal["current", "ahead", "behind", "empty"]


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where the schema is. `state`: `empty`, `behind`, `current` or `ahead` of this code."""

    state: State
    applied: tuple[str, ...]
    heads: tuple[str, ...]

    @property
    def is_usable(self) -> bool:
        return self.state in {"current", "ahead"}


class Migrator:
    """Upgrades, downgrades and checks the schema of one database."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def config(self) -> Config:
        """Alembic's configuration, with the platform's and the product's version folders."""
        config = Config()
        home = Path(platform_migrations.__file__).parent
        config.set_main_option("script_location", str(home))
        folders = [home / "versions", *(versions_folder(package) for package in self._database.migrations)]
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(str(folder) for folder in folders))
        return config

    def upgrade(self) -> SchemaStatus:
        """To the newest schema; waits for another process that is at it. Returns what it found after."""
        with self._locked() as connection:
            status = self._status(connection)
            if not status.is_usable:
                config = self._config_for(connection)
                for target in self._branch_heads():
                    command.upgrade(config, target)
                connection.commit()
                status = self._status(connection)
        return status

    def downgrade(self, target: str) -> None:
        """To a revision, `base` or a relative step such as `platform@-1`."""
        with self._locked() as connection:
            command.downgrade(self._config_for(connection), target)
            connection.commit()

    def status(self) -> SchemaStatus:
        """Where the schema is. Raises what the driver raises where the database is away."""
        with self._database.engine.connect() as connection:
            return self._status(connection)

    def wait(self, timeout_seconds: float, *, pause_seconds: float = 1.0) -> SchemaStatus:
        """Polls until the schema is usable. Raises TimeoutError with the last reason."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                status = self.status()
                if status.is_usable:
                    return status
                reason = f"the schema is {status.state}: at {', '.join(status.applied) or 'nothing'}"
            except (DBAPIError, OSError) as error:
                reason = f"the database does not answer ({type(error).__name__})"
            if time.monotonic() >= deadline:
                raise TimeoutError(f"after {timeout_seconds:.0f} s {reason}")
            time.sleep(pause_seconds)

    def revision(self, message: str, *, branch: str, folder: Path, autogenerate: bool = True) -> Path:
        """Writes a new revision on a branch from the difference between models and database."""
        with self._locked() as connection:
            script = command.revision(
                self._config_for(connection),
                message=message,
                autogenerate=autogenerate,
                head=f"{branch}@head" if self._has_branch(branch) else "base",
                branch_label=None if self._has_branch(branch) else branch,
                version_path=str(folder),
            )
        if script is None or isinstance(script, list):
            raise CommandError("Alembic wrote no single revision")
        return Path(script.path)

    # -- inside -------------------------------------------------------------------------------------

    def _scripts(self) -> ScriptDirectory:
        return ScriptDirectory.from_config(self.config())

    def _branch_heads(self) -> list[str]:
        """Targets in the order to apply them: the platform first."""
        branches = {
            label: f"{label}@head"
            for script in self._scripts().walk_revisions()
            for label in script.branch_labels
        }
        return [branches[name] for name in sorted(branches, key=lambda name: (name != "platform", name))]

    def _has_branch(self, branch: str) -> bool:
        return f"{branch}@head" in self._branch_heads()

    def _status(self, connection: Connection) -> SchemaStatus:
        scripts = self._scripts()
        applied = MigrationContext.configure(connection).get_current_heads()
        connection.rollback()  # looking must not leave a transaction open
        heads = tuple(scripts.get_heads())
        known = {script.revision for script in scripts.walk_revisions()}
        state: State
        if not applied:
            state = "empty"
        elif any(revision not in known for revision in applied):
            state = "ahead"
        else:
            state = "current" if set(heads) <= set(applied) else "behind"
        return SchemaStatus(state, tuple(sorted(applied)), tuple(sorted(heads)))

    def _config_for(self, connection: Connection, **attributes: Any) -> Config:
        config = self.config()
        config.attributes.update(connection=connection, **attributes)
        return config

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Connection]:
        """A connection whose holder is the only one to migrate this database."""
        with self._database.engine.connect() as connection:
            backend = self._database.backend
            if backend == "postgresql":
                # A migration may wait for locks and rewrite tables: the statement timeout is not for it.
                connection.execute(text("SET statement_timeout = 0"))
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            elif backend == "mysql":
                connection.execute(text("SELECT GET_LOCK(:name, 600)"), {"name": _LOCK_NAME})
            connection.commit()
            try:
                yield connection
            finally:
                connection.rollback()
                if backend == "postgresql":
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
                    connection.execute(text("RESET statement_timeout"))
                elif backend == "mysql":
                    connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})
                connection.commit()


def versions_folder(package: str) -> Path:
    """Where a migration package keeps its revisions."""
    module = importlib.import_module(package)
    if module.__file__ is None:
        raise ImportError(f"{package} is not a package with an __init__.py")
    return Path(module.__file__).parent / "versions"
