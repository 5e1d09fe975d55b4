"""The back ends that the conformance suite runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import FileStorage, create_storage

from tests.integration.storage.s3_server import BUCKET, S3Server, find_program
from tests.support.databases import section_for
from tests.support.stores import Stores

BACK_ENDS = ("folder", "sqlite", "postgres", "mariadb", "s3")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    program = find_program()
    if program is None:
        pytest.skip("no S3 server: `hack/tools/install versitygw` builds one where Go is installed")
    server = S3Server(program, tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
async def make_database(
    make_settings: Callable[..., Settings],
) -> AsyncIterator[Callable[..., DatabaseManager]]:
    """Database managers that are stopped after the test."""
    made: list[DatabaseManager] = []

    def make(section: dict[str, Any], **sections: Any) -> DatabaseManager:
        made.append(DatabaseManager(make_settings(database=section, **sections)))
        return made[-1]

    yield make
    for database in made:
        await database.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The conformance suite runs on each back end; with `--database` on that one in place of the others."""
    if "storage" in metafunc.fixturenames and "database" not in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--database")
        back_ends = ("folder", chosen, "s3") if chosen else BACK_ENDS
        metafunc.parametrize("storage", back_ends, indirect=True)


@pytest.fixture
async def storage(
    request: pytest.FixtureRequest,
    stores: Stores,
    tmp_path: Path,
    make_settings: Callable[..., Settings],
    make_database: Callable[..., DatabaseManager],
) -> FileStorage:
    """Each back end in turn, empty."""
    database = make_database({"database_url": "sqlite://"})
    section: dict[str, Any] = {"url": "database://"}
    if request.param == "folder":
        section = {"url": f"file://{tmp_path}/files"}
    elif request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        prefix = f"{tmp_path.parent.name}-{tmp_path.name}".replace("[", "-").replace("]", "")
        section = {"url": f"s3://{BUCKET}/{prefix}", "options": server.options}
    else:
        database = make_database(section_for(request.param, request, stores, tmp_path, is_migrated=True))
        await database.start()
    return create_storage(make_settings(storage=section), database)
