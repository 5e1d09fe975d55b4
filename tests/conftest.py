"""Fixtures for every test: real stores, settings that ignore this machine, and no sockets in unit tests.

| fixture | gives |
| --- | --- |
| `make_settings(**sections)` | `Settings` for tests, from nothing but its arguments |
| `database_kind` | which of `DATABASES` the test runs on: see below |
| `database_section`, `empty_database_section` | the settings of a fresh database of that kind, with the product's schema or empty |
| `database_url`, `database_environment` | its address; the variables that lead a service's process to it |
| `settings` | `Settings` on `database_section` and an empty Redis |
| `chosen_database` | for examples that give no settings: an environment that leads to the kind of `--database` |
| `disposable_database` | a server of that kind, of the test's own: `stop`, `start`, `kill`, `freeze`, `thaw`; skips for SQLite |
| `postgres_server` | the run's shared server: `create_database`, `execute`, `superuser_url` |
| `postgres_url` | a fresh database with the product's schema (tens of milliseconds) |
| `empty_postgres_url` | a fresh database with nothing in it |
| `mariadb_server`, `mariadb_url`, `empty_mariadb_url` | the same of MariaDB; skips where there is none |
| `pgbouncer` | PgBouncer in transaction mode before `postgres_server`: `url(database)`; skips where there is none |
| `redis_server`, `redis_url` | this process's Redis, emptied before each test |
| `disposable_postgres`, `disposable_redis` | servers of the test's own: `stop`, `start`, `kill`, `child.freeze`, `child.thaw` |

A test that asks for `database_kind` or what is built on it runs on the kinds that its mark `databases` names, on
PostgreSQL where it has none, of these on what `only_on` leaves; with `--database KIND` on that kind alone. A test that is about one kind carries
`only_on(kind, reason=…)` and is skipped in the runs on others. One that uses a kind's own fixtures without that mark
ends the collection: it would run on the wrong database without a word.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_socket
import structlog

from tests.support.databases import (
    DATABASES,
    DisposableDatabase,
    disposable_for,
    environment_of,
    find_missing_programs,
    section_for,
)
from tests.support.hanging import describe_waiting_tasks
from tests.support.stores import FOLDER_VARIABLE, Stores, close_run, open_run

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.settings import Settings

    from hack.dev.postgres import Postgres
    from hack.dev.redis_server import Redis
    from tests.support.mariadb import MariaDB
    from tests.support.pgbouncer import PgBouncer

UNIT_TESTS = Path(__file__).parent / "unit"
_SETTING = re.compile(r"^[A-Za-z_]+__\w+$|^ENVIRONMENT$", re.IGNORECASE)


# What only one kind of database has. `database_section` and its like ask for them by name, and are not meant.
_OF_ONE_KIND = {
    "postgres_server", "postgres_url", "empty_postgres_url", "disposable_postgres", "pgbouncer",
    "mariadb_server", "mariadb_url", "empty_mariadb_url", "disposable_mariadb",
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--database`, which `make test DATABASE=…` gives."""
    parser.addoption("--database", choices=DATABASES, help="run what needs a database on this kind alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The kinds of database that a test runs on."""
    if "database_kind" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--database")
        mark = metafunc.definition.get_closest_marker("databases")
        only = metafunc.definition.get_closest_marker("only_on")
        kinds: Sequence[str] = mark.args if mark else ["postgres"]
        if only:
            kinds = [kind for kind in kinds if kind in only.args] or only.args
        if chosen:
            kinds = [chosen]
        metafunc.parametrize("database_kind", kinds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what is about another kind than the run's; refuses what does not say that it is about one."""
    chosen = config.getoption("--database")
    for item in items:
        mark = item.get_closest_marker("only_on")
        names = _OF_ONE_KIND & set(getattr(item, "fixturenames", ()))
        if mark is None and names:
            raise pytest.UsageError(f"{item.nodeid} uses {sorted(names)} and has no mark only_on")
        if mark is not None and chosen is not None and chosen not in mark.args:
            item.add_marker(pytest.mark.skip(reason=f"not on {chosen}: {mark.kwargs['reason']}"))


def pytest_configure(config: pytest.Config) -> None:
    """The pytest that the person started owns the stores; its xdist workers inherit the folder's name."""
    if missing := find_missing_programs(config.getoption("--database")):
        raise pytest.UsageError(missing)
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER_VARIABLE] = str(open_run())


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last thing of a run: xdist's workers have ended."""
    if not hasattr(config, "workerinput") and FOLDER_VARIABLE in os.environ:
        close_run(Path(os.environ.pop(FOLDER_VARIABLE)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to the report of a test that ran out of time what its tasks wait for."""
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        report.sections.append(("tasks that had not ended", describe_waiting_tasks()))
    return report


@pytest.fixture(autouse=True)
def _no_sockets_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """A unit test that opens a socket fails. Unix sockets stay: an event loop wakes itself by a pair of them."""
    if not request.path.is_relative_to(UNIT_TESTS):
        yield
        return
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees no setting from the environment that it did not set itself."""
    for name in list(os.environ):
        if _SETTING.match(name):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures logging does so for itself alone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configuration = structlog.get_config()
    yield
    module: Any = sys.modules.get("scalable_fastapi_system.infra.logging")
    if module is not None:
        module._request_line_redactor = None
    structlog.configure(**configuration)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def stores() -> Stores:
    """The run's stores as this process sees them."""
    return Stores(
        Path(os.environ[FOLDER_VARIABLE]), process_name=os.environ.get("PYTEST_XDIST_WORKER", "main")
    )


@pytest.fixture(scope="session")
def postgres_server(stores: Stores) -> Postgres:
    """The run's shared Postgres; a test makes databases in it and leaves the server alone."""
    return stores.postgres()


@pytest.fixture
def postgres_url(stores: Stores, postgres_server: Postgres) -> Iterator[str]:
    """The address of a fresh database with the product's schema, dropped after the test."""
    name = stores.new_database(is_migrated=True)
    yield from _lent(postgres_server, name)


@pytest.fixture
def empty_postgres_url(stores: Stores, postgres_server: Postgres) -> Iterator[str]:
    """The address of a fresh database with nothing in it, dropped after the test."""
    name = stores.new_database(is_migrated=False)
    yield from _lent(postgres_server, name)


@pytest.fixture(scope="session")
def mariadb_server(stores: Stores) -> MariaDB:
    """The run's shared MariaDB; a test makes databases in it and leaves the server alone."""
    return stores.mariadb(_mariadb_programs())


@pytest.fixture
def mariadb_url(stores: Stores, mariadb_server: MariaDB) -> Iterator[str]:
    """The address of a fresh MariaDB database with the product's schema, dropped after the test."""
    name = stores.new_mariadb_database(mariadb_server, is_migrated=True)
    yield from _lent(mariadb_server, name)


@pytest.fixture
def empty_mariadb_url(stores: Stores, mariadb_server: MariaDB) -> Iterator[str]:
    """The address of a fresh MariaDB database with nothing in it, dropped after the test."""
    name = stores.new_mariadb_database(mariadb_server, is_migrated=False)
    yield from _lent(mariadb_server, name)


@pytest.fixture
def disposable_mariadb(stores: Stores) -> Iterator[MariaDB]:
    """A running MariaDB of the test's own, an empty database `app` in it."""
    server = stores.disposable_mariadb(_mariadb_programs())
    yield server
    server.discard()


def _lent(server: Postgres | MariaDB, database: str) -> Iterator[str]:
    yield server.url(database)
    _stop_embedded_workers(database)
    server.drop_database(database)


def _stop_embedded_workers(database: str) -> None:
    """A client without a lifespan leaves one that ends when it is idle: it must not look for a database that is gone."""
    embedded = sys.modules.get("scalable_fastapi_system.jobs.embedded")
    for worker in list(embedded._live) if embedded is not None else ():
        resources = worker._resources()
        if resources is not None and urlsplit(resources.database.url).path == f"/{database}":
            worker.stop()


def _mariadb_programs() -> Any:
    from tests.support import mariadb

    programs = mariadb.find_programs()
    if programs is None:
        pytest.skip(mariadb.MISSING)
    return programs


@pytest.fixture(scope="session")
def pgbouncer(stores: Stores) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode with two servers a database, before the run's shared Postgres."""
    from tests.support import pgbouncer

    program = pgbouncer.find_pgbouncer()
    if program is None:
        pytest.skip(pgbouncer.MISSING)
    pooler = stores.new_pgbouncer(program, pool_size=2)
    yield pooler
    pooler.discard()


@pytest.fixture(scope="session")
def redis_server(stores: Stores) -> Iterator[Redis]:
    """This process's Redis; a test that kills one asks for `disposable_redis`."""
    server = stores.new_redis()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The address of this process's Redis, which is empty."""
    redis_server.flush()
    return redis_server.url()


@pytest.fixture
def disposable_postgres(stores: Stores) -> Iterator[Postgres]:
    """A running Postgres of the test's own, the schema in its `app` database."""
    server = stores.disposable_postgres()
    yield server
    server.discard()


@pytest.fixture
def disposable_redis(stores: Stores) -> Iterator[Redis]:
    """A running Redis of the test's own."""
    server = stores.new_redis()
    yield server
    server.discard()


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    """Settings for tests from the given sections (`database={…}`) and nothing else; cheap password hashes."""
    from scalable_fastapi_system.infra.settings import Settings

    def make(**sections: Any) -> Settings:
        security = {"bcrypt_rounds": 4, **sections.pop("security", {})}
        values: dict[str, Any] = {"environment": "test", "security": security, **sections}
        return Settings(_env_file=None, **values)  # type: ignore[call-arg]

    return make


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """One of `DATABASES`."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_section(
    database_kind: str, request: pytest.FixtureRequest, stores: Stores, tmp_path: Path
) -> dict[str, Any]:
    """The settings `database` of a fresh database with the product's schema; a test may change its copy."""
    return section_for(database_kind, request, stores, tmp_path, is_migrated=True)


@pytest.fixture
def empty_database_section(
    database_kind: str, request: pytest.FixtureRequest, stores: Stores, tmp_path: Path
) -> dict[str, Any]:
    """The settings `database` of a fresh database with nothing in it."""
    return section_for(database_kind, request, stores, tmp_path, is_migrated=False)


@pytest.fixture
def database_url(database_section: dict[str, Any]) -> str:
    """The address in `database_section`."""
    url: str = database_section["database_url"]
    return url


@pytest.fixture
def database_environment(database_section: dict[str, Any]) -> dict[str, str]:
    """`database_section` as the variables of a process's environment."""
    return environment_of(database_section)


@pytest.fixture
def chosen_database(
    request: pytest.FixtureRequest,
    _no_settings_of_this_machine: None,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """For examples that give no settings: with `--database` the environment leads to that one, jobs in the process."""
    chosen = request.config.getoption("--database")
    if chosen is not None:
        section = section_for(chosen, request, stores, tmp_path, is_migrated=True)
        for name, value in {**environment_of(section), "JOBS__MODE": "embedded"}.items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def disposable_database(database_kind: str, stores: Stores) -> Iterator[DisposableDatabase]:
    """A running server of the test's own with the product's schema in a database."""
    server = disposable_for(database_kind, stores)
    yield server
    server.discard()


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings], database_section: dict[str, Any], redis_url: str
) -> Settings:
    """Settings on a fresh migrated database and an empty Redis."""
    return make_settings(database=database_section, redis={"redis_url": redis_url})
