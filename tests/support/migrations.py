"""Packages of migrations that a test writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_migrations(package: Path, steps: Mapping[str, str], *, downgrade: str = "pass") -> None:
    """A package of the product's branch with these revisions, one after the other: name to the statements of `upgrade`."""
    (package / "versions").mkdir(parents=True)
    (package / "__init__.py").touch()
    before = None
    for name, step in steps.items():
        (package / "versions" / f"{name}.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {name!r}\ndown_revision = {before!r}\n"
            f"branch_labels = {('product',) if before is None else None!r}\ndepends_on = None\n"
            f"def upgrade():\n    {step}\ndef downgrade():\n    {downgrade}\n"
        )
        before = name
