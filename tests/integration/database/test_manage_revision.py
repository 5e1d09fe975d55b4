"""`manage revision`: what it writes for a product is about the product's tables alone, and passes the checks as it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.util import CommandError
from scalable_fastapi_system.cli import EXIT_BEHIND
from scalable_fastapi_system.infra.database import DatabaseManager, metadata, migrate
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.settings import Settings

pytestmark = pytest.mark.databases("sqlite", "postgres")

REPOSITORY = Path(__file__).resolve().parents[3]
MANAGE = """\
import sys
from scalable_fastapi_system.cli import main
from scalable_fastapi_system.kit.domain import Domain, Product

sys.exit(main(product=Product(domains=(Domain("orders", models=("shop.models",)),), migrations="shop.migrations")))
"""
ORDERS = """\
from datetime import datetime

import scalable_fastapi_system.identity.models  # noqa: F401
from scalable_fastapi_system.infra.database import JSONColumn, UTCDateTime, metadata
from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table
from sqlmodel import Field, SQLModel

orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(200), nullable=False),
    Index("ix_orders_owner_id", "owner_id"),
)
"""
PARCELS = """

class Parcel(SQLModel, table=True):
    __tablename__ = "parcels"

    id: int | None = Field(default=None, primary_key=True)
    label: str = Field(index=True)
    order_id: int = Field(sa_column=Column("order_id", ForeignKey("orders.id"), nullable=False))
    sent_at: datetime = Field(sa_column=Column("sent_at", UTCDateTime(), nullable=False))
    content: dict = Field(sa_column=Column("content", JSONColumn(), nullable=False))
"""
FIRST = """\
import sqlalchemy as sa
from alembic import op

revision = "d0001"
down_revision = None
branch_labels = ("product",)
depends_on = ("p0001",)


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("owner_id", sa.Integer(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
    )
    op.create_index("ix_orders_owner_id", "orders", ["owner_id"])


def downgrade() -> None:
    op.drop_table("orders")
"""


class Shop:
    """A product of its own, outside of the repository, operated by its command line."""

    def __init__(self, root: Path, environment: dict[str, str], *, first: str = "d0001") -> None:
        """first: the name of its first revision."""
        self.root = root
        self._environment = {**os.environ, **environment, "ENVIRONMENT": "development"}
        self.versions = root / "shop" / "migrations" / "versions"
        self.versions.mkdir(parents=True)
        for folder in (self.versions, *self.versions.parents[:2]):
            (folder / "__init__.py").touch()
        (root / "manage.py").write_text(MANAGE)
        self.models = root / "shop" / "models.py"
        self.models.write_text(ORDERS)
        (self.versions / f"{first}_orders.py").write_text(FIRST.replace("d0001", first))
        shutil.copy(REPOSITORY / "pyproject.toml", root)

    def run(self, *command: str, code: int = 0) -> str:
        """What a program says, which has to end with this code."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def revision(self, message: str, *arguments: str) -> Path:
        """The file that `manage revision` writes."""
        before = set(self.versions.glob("*.py"))
        self.run("manage.py", "revision", message, *arguments)
        (written,) = set(self.versions.glob("*.py")) - before
        return written


@pytest.fixture
def shop(tmp_path: Path, database_environment: dict[str, str]) -> Shop:
    made = Shop(tmp_path / "product", database_environment)
    made.run("manage.py", "migrate")
    return made


def operations(path: Path) -> list[str]:
    """What it does on the way up, an operation and what it is about."""
    upgrade = path.read_text().partition("def upgrade()")[2].partition("def downgrade()")[0]
    # SQLite's are in a batch for each table.
    found = re.findall(r'op\.((?:create|drop|add|alter)_\w+)\(\s*(?:(?:batch_)?op\.f\()?"(\w+)"', upgrade)
    return [f"{name} {about}" for name, about in found]


def test_a_revision_without_changes_is_empty(shop: Shop) -> None:
    written = shop.revision("nothing changed")
    assert operations(written) == []
    assert written.name == "d0002_nothing_changed.py"


def test_a_revision_holds_what_the_product_changed_and_is_applied_as_it_was_written(shop: Shop) -> None:
    shop.models.write_text(ORDERS + PARCELS)
    written = shop.revision("add parcels")
    assert operations(written) == ["create_table parcels", "create_index ix_parcels_label"]

    shop.run("-m", "ruff", "check", str(written))
    shop.run("-m", "ruff", "format", "--check", str(written))
    assert "The schema is current: at d0002, p0005" in shop.run("manage.py", "migrate")
    assert operations(shop.revision("nothing changed")) == []
    assert "at d0001, p0005" in shop.run(
        "manage.py", "migrate", "--downgrade", "product@d0001", code=EXIT_BEHIND
    )


def test_a_table_without_a_model_any_more_is_dropped(shop: Shop) -> None:
    shop.models.write_text("import scalable_fastapi_system.identity.models\n")
    assert operations(shop.revision("drop orders"))[-1] == "drop_table orders"


def test_one_for_data_has_what_its_author_will_need(shop: Shop) -> None:
    written = shop.revision("fill names", "--empty")
    assert "from alembic import op" in written.read_text()
    shop.run("-m", "ruff", "format", "--check", str(written))


def test_revisions_that_are_named_in_another_way_go_on_in_that(
    tmp_path: Path, database_environment: dict[str, str]
) -> None:
    shop = Shop(tmp_path / "product", database_environment, first="a1b2c3")
    shop.run("manage.py", "migrate")
    assert re.fullmatch(r"[0-9a-f]{12}_nothing_changed\.py", shop.revision("nothing changed").name)


def test_the_first_of_a_product_begins_the_names(
    tmp_path: Path, database_environment: dict[str, str]
) -> None:
    shop = Shop(tmp_path / "product", database_environment)
    (shop.versions / "d0001_orders.py").unlink()
    shop.run("manage.py", "migrate")
    written = shop.revision("add orders")
    assert written.name == "d0001_add_orders.py"
    assert operations(written) == ["create_table orders", "create_index ix_orders_owner_id"]
    assert "The schema is current: at d0001, p0005" in shop.run("manage.py", "migrate")


def test_without_ruff_a_revision_is_written_as_alembic_writes_it(shop: Shop) -> None:
    (shop.root / "manage.py").write_text(f"import sys\n\nsys.modules['ruff'] = None\n{MANAGE}")
    assert "down_revision: str | None = 'd0001'" in shop.revision("nothing changed").read_text()


def test_the_platforms_own_revisions_compare_the_platforms_tables(
    make_settings: Callable[..., Settings],
    database_section: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without writing one: it would lie among those that other tests read."""
    compared: list[bool] = []

    def note(config: Config, **_: Any) -> None:
        include = config.attributes["include_object"]
        compared.append(include is None or include(metadata.tables["jobs"], "jobs", "table", False, None))

    monkeypatch.setattr(migrate.command, "revision", note)
    migrator = Migrator(DatabaseManager(make_settings(database=database_section)))
    for branch in ("platform", "product"):
        with pytest.raises(CommandError):
            migrator.revision("more", branch=branch, folder=tmp_path)
    assert compared == [True, False]
