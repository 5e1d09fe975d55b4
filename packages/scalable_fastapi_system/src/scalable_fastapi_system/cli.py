"""The operators' command line: `python -m services.manage COMMAND`.

Every command says in plain words what it did or what is wrong, and exits 0 only when things are as asked. A
problem in the settings exits 4, a store that does not answer 5, what the database refuses 1.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from sqlalchemy.exc import DBAPIError

from scalable_fastapi_system.doctor.command import add_doctor_command
from scalable_fastapi_system.identity.commands import add_commands as add_identity_commands
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.migrate import Migrator, SchemaStatus, failed_revision
from scalable_fastapi_system.infra.database.outage import is_unavailable
from scalable_fastapi_system.infra.settings import Settings, load_settings
from scalable_fastapi_system.infra.settings.loading import effective_values
from scalable_fastapi_system.jobs.commands import add_job_commands
from scalable_fastapi_system.kit.domain import Product, load_object
from scalable_fastapi_system.kit.errors import ConfigurationError, ServiceUnavailableException

EXIT_BEHIND = 3
EXIT_SETTINGS = 4
EXIT_STORE = 5


def main(argv: Sequence[str] | None = None, *, product: Product | None = None) -> int:
    """Runs one command and returns its exit code."""
    product = product or Product()
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "examine" in arguments:  # the doctor: settings that cannot be read are what it is asked about
        return int(arguments.examine(arguments, product))
    try:
        settings = load_settings()
        code: int = arguments.run(arguments, settings, product)
    except ConfigurationError as error:
        _say_error(str(error))
        return EXIT_SETTINGS
    except ServiceUnavailableException as error:
        _say_error(error.message)
        return EXIT_STORE
    except (DBAPIError, OSError) as error:
        # The drivers wrap what they cannot reach: a bare OSError of a revision is of its own code.
        is_of_a_revision = isinstance(error, OSError) and failed_revision(error) is not None
        if is_unavailable(error) and not is_of_a_revision:
            _say_error(f"A store does not answer: {_reason(error)}")
            return EXIT_STORE
        _say_error(_refusal(error))
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage", description="Operate an installation of the platform.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    migrate = commands.add_parser(
        "migrate", help="bring the database to the newest schema, or ask where it is"
    )
    how = migrate.add_mutually_exclusive_group()
    how.add_argument(
        "--check", action="store_true", help=f"only look; exit {EXIT_BEHIND} when the schema is behind"
    )
    how.add_argument("--wait", type=float, metavar="SECONDS", help="wait until another process has migrated")
    how.add_argument(
        "--downgrade", metavar="REVISION", help="go back to a revision, for instance platform@-1"
    )
    how.add_argument(
        "--keep",
        type=float,
        metavar="SECONDS",
        help="migrate and stay; look again each time that so much has passed, for a database that may be replaced by an empty one",
    )
    migrate.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long a database that does not answer yet is asked again (it may still be starting)",
    )
    migrate.set_defaults(run=_migrate)

    revision = commands.add_parser("revision", help="write a new migration from the difference to the models")
    revision.add_argument("message", help="what it does, a few words")
    revision.add_argument("--empty", action="store_true", help="write no operations, for a migration of data")
    revision.set_defaults(run=_revision)

    config = commands.add_parser("config", help="print the settings in force and where each came from")
    config.add_argument("--json", action="store_true", help="for programs")
    config.set_defaults(run=_config)

    openapi = commands.add_parser("openapi", help="print the API's OpenAPI document")
    openapi.set_defaults(run=_openapi)

    add_identity_commands(commands)
    add_job_commands(commands)
    add_doctor_command(commands)

    worker = commands.add_parser("worker", help="run a worker here, until SIGTERM or Ctrl-C")
    worker.set_defaults(run=_worker)
    return parser


def _migrate(arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    if settings.is_ephemeral:
        print("The database is a temporary one: it is brought to the newest schema when it is opened.")
        return 0
    database = _database(settings, product)
    migrator = Migrator(database)
    try:
        if arguments.downgrade:
            migrator.downgrade(arguments.downgrade)
            return _report(migrator.status())
        if arguments.check:
            return _report(migrator.status())
        if arguments.keep is not None:
            _keep(migrator, arguments.keep)
        if arguments.wait is not None:
            try:
                return _report(migrator.wait(arguments.wait))
            except TimeoutError as error:
                _say_error(f"The schema was not ready in time: {error}")
                return EXIT_BEHIND
        before = _first_status(migrator, arguments.patience)
        try:
            after = migrator.upgrade()
        except TimeoutError as error:
            _say_error(f"Not migrated: {error}")
            return EXIT_BEHIND
        if before.applied != after.applied:
            print(f"Migrated from {_names(before.applied)} to {_names(after.applied)}.")
        return _report(after)
    finally:
        database.engine.dispose()


def _keep(migrator: Migrator, pause_seconds: float) -> NoReturn:
    """Brings the schema to whatever database is there, until SIGTERM. Says what it finds when that changes."""
    # A container's first process has no default for it, and would be waited for and killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    said = ""

    def say(text: str) -> None:
        nonlocal said
        if text != said:
            print(text, flush=True)
        said = text

    while True:
        try:
            status = migrator.status()
            if not status.is_usable:
                say(_description(status))
                status = migrator.upgrade()
            say(_description(status))
        except (DBAPIError, OSError, TimeoutError) as error:
            revision = failed_revision(error)
            say(f"Not migrated: {f'at revision {revision}: ' if revision else ''}{_reason(error)}")
        time.sleep(pause_seconds)


def _first_status(migrator: Migrator, patience_seconds: float) -> SchemaStatus:
    """Where the schema is, from a database that may still be starting. Raises what the driver raises once patience ends."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return migrator.status()
        except (DBAPIError, OSError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(1.0)


def _report(status: SchemaStatus) -> int:
    print(_description(status))
    return 0 if status.is_usable else EXIT_BEHIND


def _description(status: SchemaStatus) -> str:
    return (
        f"The schema is {status.state}: at {_names(status.applied)}; this code knows {_names(status.heads)}."
    )


def _names(revisions: Sequence[str]) -> str:
    return ", ".join(revisions) or "nothing"


def _revision(arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    if product.migrations is None:
        _say_error("This product has no package for migrations: give Product(migrations=…) one.")
        return 2
    from scalable_fastapi_system.infra.database.schema_state import versions_folder

    database = _database(settings, product)
    path = Migrator(database).revision(
        arguments.message,
        branch="product",
        folder=versions_folder(product.migrations),
        autogenerate=not arguments.empty,
    )
    print(f"Wrote {path}. Read it before you commit it: Alembic guesses, you know.")
    return 0


def _config(arguments: argparse.Namespace, settings: Settings, _product: Product) -> int:
    rows = list(effective_values(settings))
    if arguments.json:
        print(
            json.dumps(
                [{"variable": row.variable, "value": row.value, "source": row.source} for row in rows],
                indent=2,
            )
        )
        return 0
    width = max(len(row.variable) for row in rows)
    for row in rows:
        print(f"{row.variable:<{width}}  {row.source:<11}  {row.value}")
    return 0


def _worker(_arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    from scalable_fastapi_system.infra.logging import configure_logging
    from scalable_fastapi_system.worker import create_worker

    configure_logging(settings)
    return create_worker(settings, product).run()


def _openapi(_arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    # By name, so that this module can be imported in the worker's image, which has no web framework.
    create_app = load_object("scalable_fastapi_system.application:create_app")
    print(json.dumps(create_app(settings, product).openapi(), indent=2, sort_keys=True))
    return 0


def _database(settings: Settings, product: Product) -> DatabaseManager:
    product.load_models()
    return DatabaseManager(settings, migrations=(product.migrations,) if product.migrations else ())


def _reason(error: BaseException) -> str:
    """What the driver says, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).strip()


def _refusal(error: BaseException) -> str:
    """That the database answered and did not do it, and what to do next."""
    revision = failed_revision(error)
    if revision is None:
        return f"The database refused it: {_reason(error)}\nIs the schema current? `manage migrate --check` says so."
    return (
        f"The migration failed at revision {revision}: {_reason(error)}\n"
        "What came before it is done. Mend the data or the revision, then migrate again."
    )


def _say_error(text: str) -> None:
    sys.stderr.write(text + "\n")
