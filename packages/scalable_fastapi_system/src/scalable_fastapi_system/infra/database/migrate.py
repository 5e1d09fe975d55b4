"""Schema migrations: Alembic under a lock, one linear history each for the platform and for the product.

Two histories, so that an upgrade of the platform never gives the product a second head to merge. The
platform's runs first; the product's tables may refer to the platform's. A database that is ahead of the code
(after a rollback of a release) is accepted as it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

import scalable_fastapi_system.migrations as platform_migrations
from scalable_fastapi_system.infra.database.online import Finding, check_revision
from scalable_fastapi_system.infra.database.platform_models import load_platform_models, platform_tables
from scalable_fastapi_system.infra.database.schema_state import (
    PLATFORM_MIGRATIONS,
    Revisions,
    State,
    state_of,
    versions_folder,
)

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database.manager import DatabaseManager

_log = structlog.get_logger("database")

LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 0.5
_LOCK_NOT_AVAILABLE = "55P03"
_MYSQL_LOCK_NOT_AVAILABLE = 1205
# Any constant will do as long as every version of the platform uses the same one.
_LOCK_KEY = 0x5FA5_7A91
_LOCK_NAME = "scalable_fastapi_system_migrate"

_PLATFORM = "platform"
_NUMBERED = re.compile(r"(?P<prefix>[a-z]+)(?P<number>\d{4})")
_FIRST_IDS = {"product": "d0001"}


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
        # Without a pool: what is set for a session ends with it, and the lock takes a second connection.
        self._engine = database.make_engine(pooled=False)

    def config(self) -> Config:
        """Alembic's configuration, with the platform's and the product's version folders."""
        config = Config()
        home = Path(platform_migrations.__file__).parent
        config.set_main_option("script_location", str(home))
        folders = [versions_folder(package) for package in (PLATFORM_MIGRATIONS, *self._database.migrations)]
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(str(folder) for folder in folders))
        return config

    def upgrade(self) -> SchemaStatus:
        """To the newest schema; waits for another process that is at it. Returns what it found after."""
        with self._locked() as connection:
            status = self._status(connection)
            if not status.is_usable:
                self._upgrade(connection)
                status = self._status(connection)
        return status

    def downgrade(self, target: str) -> None:
        """To a revision, `base` or a relative step such as `platform@-1`."""
        with self._locked() as connection:
            command.downgrade(self._config_for(connection), target)
            connection.commit()

    def status(self) -> SchemaStatus:
        """Where the schema is. Raises what the driver raises where the database is away."""
        with self._engine.connect() as connection:
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
        """Writes a new revision on a branch from the difference between models and database.

        On any branch but the platform's, the platform's own tables are left out with all that is on them. They are the
        business of the platform's revisions, which make by hand what a model cannot say, such as partial indexes: to
        a comparison these look like something to drop.
        """
        load_platform_models()
        include = None if branch == _PLATFORM else _without(platform_tables())
        with self._locked() as connection:
            config = self._config_for(connection, include_object=include)
            _set_tidying(config, is_complete=autogenerate)
            script = command.revision(
                config,
                message=message,
                rev_id=self._next_id(branch),
                autogenerate=autogenerate,
                head=f"{branch}@head" if self._has_branch(branch) else "base",
                branch_label=None if self._has_branch(branch) else branch,
                version_path=str(folder),
            )
        if script is None or isinstance(script, list):
            raise CommandError("Alembic wrote no single revision")
        return Path(script.path)

    def unsafe_steps(self) -> list[Finding]:
        """What revisions, of the platform and of the product, would do to a running service; see `online`."""
        scripts = sorted(self._scripts().walk_revisions(), key=lambda script: script.revision)
        return [finding for script in scripts for finding in check_revision(script)]

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
        return [branches[name] for name in sorted(branches, key=lambda name: (name != _PLATFORM, name))]

    def _has_branch(self, branch: str) -> bool:
        return f"{branch}@head" in self._branch_heads()

    def _next_id(self, branch: str) -> str | None:
        """`d0003` after `d0002`; None where the branch's revisions have other names, for one that Alembic makes up."""
        ids = [
            script.revision for script in self._scripts().walk_revisions() if branch in script.branch_labels
        ]
        if not ids:
            return _FIRST_IDS.get(branch)
        found = [_NUMBERED.fullmatch(name) for name in ids]
        prefixes = {match and match["prefix"] for match in found}
        numbers = [int(match["number"]) for match in found if match]
        prefix = prefixes.pop()
        return f"{prefix}{max(numbers) + 1:04}" if prefix and not prefixes else None

    def _status(self, connection: Connection) -> SchemaStatus:
        scripts = self._scripts()
        applied = MigrationContext.configure(connection).get_current_heads()
        connection.rollback()  # looking must not leave a transaction open
        heads = tuple(scripts.get_heads())
        known = frozenset(script.revision for script in scripts.walk_revisions())
        state = state_of(applied, Revisions(known, frozenset(heads)))
        return SchemaStatus(state, tuple(sorted(applied)), tuple(sorted(heads)))

    def _config_for(self, connection: Connection, **attributes: Any) -> Config:
        config = self.config()
        config.attributes.update(connection=connection, **attributes)
        return config

    def _upgrade(self, connection: Connection) -> None:
        """To every branch's head. Steps aside where a table's lock is not to be had in time, and tries again.

        Whoever waits for an exclusive lock makes all who come after wait behind it, readers too. Each revision is a
        transaction by itself, so one that stepped aside is begun anew and those before it stay.
        """
        config = self._config_for(connection)
        for tries_left in reversed(range(LOCK_TRIES)):
            try:
                for target in self._branch_heads():
                    command.upgrade(config, target)
                    # Where there was nothing to do, the look has begun a transaction: the next revisions must not run in it.
                    connection.commit()
                return
            except OperationalError as error:
                connection.rollback()
                if not _is_lock_refused(error):
                    raise
                if not tries_left:
                    raise TimeoutError(
                        f"a table that a revision changes was in use at each of {LOCK_TRIES} tries: "
                        "look for long transactions (pg_stat_activity, SHOW PROCESSLIST), then migrate again"
                    ) from error
                _log.info("a table is in use, the migration steps aside", tries_left=tries_left)
                time.sleep(LOCK_PAUSE_SECONDS)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Connection]:
        """A connection whose holder is the only one to migrate this database."""
        lock = {"postgresql": self._postgresql_lock, "mysql": self._mysql_lock}.get(self._database.backend)
        with lock() if lock is not None else contextlib.nullcontext(), self._engine.connect() as connection:
            if self._database.backend == "postgresql":
                self._set_limits(connection)
            elif self._database.backend == "mysql":
                self._set_mysql_limits(connection)
            yield connection
            connection.rollback()

    def _set_limits(self, connection: Connection) -> None:
        """A migration may rewrite a table, which takes its time; it may not wait for a lock for long.

        Set for each transaction, as behind a pooler the next one has another server, and for the session where it is
        ours: a revision may leave the transaction to build an index concurrently.
        """
        settings = self._database.settings.database
        lock_ms = round(settings.migration_lock_timeout_seconds * 1000)

        def limit(begun: Connection) -> None:
            begun.exec_driver_sql("SET LOCAL statement_timeout = 0")
            begun.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_ms}")

        event.listen(connection, "begin", limit)
        if settings.prepared_statements:
            connection.execute(text("SET statement_timeout = 0"))
            connection.commit()

    def _set_mysql_limits(self, connection: Connection) -> None:
        """The same for the session, whose limit on statements is MariaDB's alone: MySQL has none but for SELECTs."""
        seconds = max(1, math.ceil(self._database.settings.database.migration_lock_timeout_seconds))
        connection.exec_driver_sql(
            f"SET SESSION lock_wait_timeout = {seconds} /*M!100101 , max_statement_time = 0 */"
        )
        connection.rollback()

    @contextlib.contextmanager
    def _postgresql_lock(self) -> Iterator[None]:
        """Held by an open transaction of a connection of its own, which a pooler in transaction mode leaves us.

        Asked for again and again rather than waited for: a statement that waits has a snapshot, and an index that the
        holder builds concurrently would wait for that in turn.
        """
        with self._engine.connect() as connection:
            while not connection.execute(
                text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}
            ).scalar_one():
                connection.rollback()
                time.sleep(LOCK_PAUSE_SECONDS)
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield
            connection.rollback()

    @contextlib.contextmanager
    def _mysql_lock(self) -> Iterator[None]:
        """Held by a session of its own: it ends with it. Its transactions need not stay open."""
        with self._engine.connect() as connection:
            while not connection.execute(
                text("SELECT GET_LOCK(:name, 0)"), {"name": _LOCK_NAME}
            ).scalar_one():
                connection.rollback()
                time.sleep(LOCK_PAUSE_SECONDS)
            connection.rollback()
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})
                connection.rollback()


def _without(tables: frozenset[str]) -> Callable[..., bool]:
    """Alembic's `include_object` that passes over these tables, and what is on them."""

    def include(thing: Any, _name: str | None, kind: str, _is_reflected: bool, _compared_to: Any) -> bool:
        table = thing if kind == "table" else thing.table
        return table.key not in tables

    return include


def _set_tidying(config: Config, *, is_complete: bool) -> None:
    """Has ruff tidy a file that is written, where ruff is installed, so that it passes the checks as it is.

    is_complete: False for one whose author has yet to use what it imports.
    """
    if importlib.util.find_spec("ruff") is None:
        return
    hooks = {"mend": "check --fix-only", "format": "format"}
    if not is_complete:
        del hooks["mend"]
    section = "post_write_hooks"
    config.set_section_option(section, "hooks", ", ".join(hooks))
    for name, arguments in hooks.items():
        config.set_section_option(section, f"{name}.type", "module")
        config.set_section_option(section, f"{name}.module", "ruff")
        config.set_section_option(section, f"{name}.options", f"{arguments} --quiet REVISION_SCRIPT_FILENAME")


def failed_revision(error: BaseException) -> str | None:
    """The revision whose own code raised this; None where it came from elsewhere, as from connecting or a COMMIT."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        names = frame.f_globals
        if "revision" in names and "down_revision" in names:  # what makes a module a revision to Alembic
            return str(names["revision"])
    return None


def _is_lock_refused(error: OperationalError) -> bool:
    original: Any = error.orig
    if getattr(original, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        return True
    return bool(getattr(original, "args", ())) and original.args[0] == _MYSQL_LOCK_NOT_AVAILABLE
