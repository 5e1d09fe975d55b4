"""Every revision on every database: up, down and up again, one head a branch, the models' schema; and safe online."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from domains.registry import PRODUCT
from scalable_fastapi_system.infra.database import DatabaseManager, metadata, migrate
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.database.online import check_revision
from scalable_fastapi_system.infra.database.platform_models import load_platform_models
from scalable_fastapi_system.infra.database.urls import sync_url
from scalable_fastapi_system.infra.settings import Settings
from sqlalchemy import inspect

from tests.support.migrations import write_migrations

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

MakeMigrator = Callable[..., Migrator]
# So long another client waits for a table.
PATIENCE = {"postgresql": "SET LOCAL lock_timeout = '10s'", "mysql": "SET lock_wait_timeout = 10"}
unpooled = pytest.mark.only_on(
    "postgres", "mariadb", reason="a third connection of a pool of two; SQLite locks the whole file"
)
on_a_server = pytest.mark.only_on("postgres", "mariadb", "pgbouncer", reason="SQLite locks the whole file")


@pytest.fixture
def make_migrator(make_settings: Callable[..., Settings]) -> MakeMigrator:
    def make(section: dict[str, Any], *, migrations: tuple[str, ...] | None = None) -> Migrator:
        load_platform_models()
        PRODUCT.load_models()
        assert PRODUCT.migrations is not None
        return Migrator(
            DatabaseManager(
                make_settings(database=section),
                migrations=(PRODUCT.migrations,) if migrations is None else migrations,
            )
        )

    return make


@pytest.fixture
def migrator(make_migrator: MakeMigrator, database_section: dict[str, Any]) -> Migrator:
    return make_migrator(database_section)


def tables_of(migrator: Migrator) -> dict[str, Any]:
    """What can be seen of a schema: tables, columns with types, indexes, foreign keys."""
    with migrator._engine.connect() as connection:
        seen = inspect(connection)
        return {
            name: (
                [(column["name"], repr(column["type"]), column["nullable"]) for column in seen.get_columns(name)],
                sorted(
                    (str(index["name"]), str(index["column_names"]), index["unique"])
                    for index in seen.get_indexes(name)
                ),
                sorted(str(key["constrained_columns"]) for key in seen.get_foreign_keys(name)),
            )
            for name in seen.get_table_names()
            if name != "alembic_version"
        }  # fmt: skip


def test_every_revision_goes_up_down_and_up_again(migrator: Migrator) -> None:
    migrator.upgrade()
    newest = tables_of(migrator)
    scripts = migrator._scripts()
    order = [script for script in scripts.walk_revisions() if "product" in script.branch_labels] + [
        script for script in scripts.walk_revisions() if "product" not in script.branch_labels
    ]
    assert len(order) >= 5
    for script in order:
        before = tables_of(migrator)
        branch = "product" if "product" in script.branch_labels else "platform"
        migrator.downgrade(f"{branch}@-1")
        after = tables_of(migrator)
        assert after != before, f"{script.revision} takes nothing back"
        with migrator._locked() as connection:
            command.upgrade(migrator._config_for(connection), script.revision)
            connection.commit()
        assert tables_of(migrator) == before, script.revision
        migrator.downgrade(f"{branch}@-1")
        assert tables_of(migrator) == after, script.revision
    assert tables_of(migrator) == {}
    assert migrator.upgrade().state == "current"
    assert tables_of(migrator) == newest


def test_autogenerate_finds_no_difference(migrator: Migrator) -> None:
    migrator.upgrade()

    def include(thing: object, name: str | None, kind: str, _reflected: bool, _to: object) -> bool:
        # Made by hand in its revision: on PostgreSQL each index of `jobs` is partial.
        return not (kind == "index" and getattr(getattr(thing, "table", None), "name", None) == "jobs")

    with migrator._engine.connect() as connection:
        options = {"compare_type": True, "include_object": include}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    ours = [one for one in found if "test" not in str(one).lower()]
    assert ours == []


def test_each_branch_has_one_head(make_migrator: MakeMigrator) -> None:
    scripts = make_migrator({"database_url": "sqlite://"})._scripts()
    heads = [scripts.get_revision(head) for head in scripts.get_heads()]
    labels = [label for head in heads for label in head.branch_labels]
    assert sorted(labels) == ["platform", "product"]


def test_no_revision_stops_a_running_service(make_migrator: MakeMigrator) -> None:
    found = make_migrator({"database_url": "sqlite://"}).unsafe_steps()
    assert found == [], "\n".join(map(str, found))


# -- the lint -----------------------------------------------------------------------------------------


def findings(upgrade: Callable[[], None], **module: Any) -> list[str]:
    script: Any = SimpleNamespace(revision="x1", module=SimpleNamespace(upgrade=upgrade, **module))
    return [finding.rule for finding in check_revision(script)]


def concurrent_index() -> None:
    with op.get_context().autocommit_block():
        op.create_index("i", "orders", ["a"], postgresql_concurrently=True)
    op.add_column("orders", sa.Column("b", sa.Integer()))


def new_table() -> None:
    op.create_table("fresh", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("a", sa.Integer()))
    op.create_index("i", "fresh", ["a"], unique=True)
    op.create_foreign_key("f", "fresh", "orders", ["a"], ["id"])
    op.execute("UPDATE fresh SET a = 1")


@pytest.mark.parametrize(
    "upgrade",
    [
        concurrent_index,
        new_table,
        lambda: op.add_column("orders", sa.Column("a", sa.Integer(), nullable=False, server_default="0")),
        lambda: op.execute("ALTER TABLE orders ADD CONSTRAINT c CHECK (a > 0) NOT VALID"),
        lambda: op.execute("ALTER TABLE orders VALIDATE CONSTRAINT c"),
        lambda: op.execute("ALTER TABLE orders ADD CONSTRAINT u UNIQUE USING INDEX i"),
        lambda: op.alter_column("orders", "a", server_default="1"),
    ],
)
def test_what_is_safe_is_found_safe(upgrade: Callable[[], None]) -> None:
    assert findings(upgrade) == []


@pytest.mark.parametrize(
    ("rule", "upgrade"),
    [
        ("index-not-concurrently", lambda: op.create_index("i", "orders", ["a"])),
        ("index-not-concurrently", lambda: op.create_index("i", "orders", ["a"], unique=True)),
        ("index-not-concurrently", lambda: op.drop_index("i")),
        (
            "concurrently-in-transaction",
            lambda: op.create_index("i", "orders", ["a"], postgresql_concurrently=True),
        ),
        (
            "column-not-null-without-default",
            lambda: op.add_column("orders", sa.Column("a", sa.Integer(), nullable=False)),
        ),
        (
            "column-default-volatile",
            lambda: op.add_column(
                "orders", sa.Column("a", sa.Uuid(), server_default=sa.text("gen_random_uuid()"))
            ),
        ),
        ("set-not-null", lambda: op.alter_column("orders", "a", nullable=False)),
        ("column-type", lambda: op.alter_column("orders", "a", type_=sa.BigInteger())),
        (
            "constraint-not-valid",
            lambda: op.create_foreign_key("f", "orders", "users", ["user_id"], ["id"]),
        ),
        ("constraint-not-valid", lambda: op.create_check_constraint("c", "orders", "a > 0")),
        ("unique-without-index", lambda: op.create_unique_constraint("u", "orders", ["a"])),
        ("drop-column", lambda: op.drop_column("orders", "a")),
        ("rename", lambda: op.alter_column("orders", "a", new_column_name="b")),
        ("rename", lambda: op.rename_table("orders", "sales")),
        ("drop-table", lambda: op.drop_table("orders")),
        ("rows-in-one-transaction", lambda: op.execute("UPDATE orders SET a = 1")),
    ],
)
def test_what_would_stop_a_running_service_is_found_by_its_name(
    rule: str, upgrade: Callable[[], None]
) -> None:
    assert findings(upgrade) == [rule]
    assert findings(upgrade, accepted_risks={rule: "the table has ten rows"}) == []
    with pytest.raises(ValueError, match="accepts a risk that it does not take: other"):
        findings(upgrade, accepted_risks={"other": "why not"})


# -- against a database in use ------------------------------------------------------------------------


@pytest.fixture
def busy_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A product whose second revision changes a table, and whose third builds an index concurrently."""
    package = tmp_path / f"busy_{abs(hash(tmp_path))}"
    steps = {
        "b1": "op.create_table('orders', sa.Column('id', sa.Integer(), primary_key=True))",
        "b2": "op.add_column('orders', sa.Column('a', sa.Integer()))",
        "b3": "with op.get_context().autocommit_block():\n"
        "        op.create_index('i', 'orders', ['a'], postgresql_concurrently=True)",
    }
    write_migrations(package, steps)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package.name


@pytest.fixture
def holder(empty_database_section: dict[str, Any]) -> Iterator[sa.Connection]:
    """Another client of the database."""
    engine = sa.create_engine(sync_url(empty_database_section["database_url"]), poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


@unpooled
def test_a_migration_steps_aside_for_whoever_uses_the_table_and_comes_back(
    make_migrator: MakeMigrator,
    empty_database_section: dict[str, Any],
    busy_package: str,
    holder: sa.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = {**empty_database_section, "migration_lock_timeout_seconds": 0.2}
    migrator = make_migrator(section, migrations=(busy_package,))
    with migrator._locked() as connection:
        command.upgrade(migrator._config_for(connection), "b1")
        connection.commit()
    holder.execute(sa.text("SELECT * FROM orders"))  # a long report
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        # While the migration has stepped aside, others get the table at once.
        with holder.engine.begin() as other:
            other.execute(sa.text(PATIENCE[holder.dialect.name]))
            other.execute(sa.text("INSERT INTO orders (id) VALUES (:id)"), {"id": len(pauses)})
        if len(pauses) == 3:
            holder.rollback()

    monkeypatch.setattr(time, "sleep", pause)
    assert migrator.upgrade().state == "current"
    assert len(pauses) == 3
    assert holder.execute(sa.text("SELECT count(a), count(*) FROM orders")).one() == (0, 3)


@unpooled
def test_a_table_that_is_never_free_is_told_with_what_to_do(
    make_migrator: MakeMigrator,
    empty_database_section: dict[str, Any],
    busy_package: str,
    holder: sa.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TRIES", 2)
    section = {**empty_database_section, "migration_lock_timeout_seconds": 0.2}
    migrator = make_migrator(section, migrations=(busy_package,))
    with migrator._locked() as connection:
        command.upgrade(migrator._config_for(connection), "b1")
        connection.commit()
    holder.execute(sa.text("SELECT * FROM orders"))
    with pytest.raises(TimeoutError, match="look for long transactions"):
        migrator.upgrade()
    holder.rollback()
    assert migrator.upgrade().state == "current"


@on_a_server
def test_a_migration_may_take_longer_than_a_statement_of_a_service(
    make_migrator: MakeMigrator, empty_database_section: dict[str, Any]
) -> None:
    migrator = make_migrator({**empty_database_section, "statement_timeout_seconds": 0.2})
    with migrator._locked() as connection:
        sleep = {"postgresql": "pg_sleep", "mysql": "sleep"}[connection.dialect.name]
        slept = connection.execute(sa.text(f"SELECT {sleep}(0.6)")).scalar_one()
        assert slept in {"", 0}, "MariaDB's says 1 where it is cut off"


@on_a_server
def test_of_many_that_migrate_at_once_one_does_and_an_index_built_concurrently_waits_for_none(
    make_migrator: MakeMigrator, empty_database_section: dict[str, Any], busy_package: str, database_kind: str
) -> None:
    states: list[str] = []

    def run() -> None:
        states.append(make_migrator(empty_database_section, migrations=(busy_package,)).upgrade().state)

    threads = [threading.Thread(target=run) for _ in range(2 if database_kind == "pgbouncer" else 3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 90
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert states == ["current"] * len(threads)
