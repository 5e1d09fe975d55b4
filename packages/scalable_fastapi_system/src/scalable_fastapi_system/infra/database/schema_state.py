"""Where a database's schema is, seen without Alembic, which a service would load, with a driver, for this question alone.

Revisions are read out of their files and not run: `revision` and `down_revision` have to be literals, as Alembic's
templates write them.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, column, inspect, select, table

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database.manager import DatabaseManager

State = Literal["current", "ahead", "behind", "empty"]

PLATFORM_MIGRATIONS = "scalable_fastapi_system.migrations"
_VERSIONS = table("alembic_version", column("version_num"))


@dataclass(frozen=True, slots=True)
class Revisions:
    """What this code has: every revision, and those that none comes after."""

    known: frozenset[str]
    heads: frozenset[str]


def state_of(applied: Collection[str], revisions: Revisions) -> State:
    """Where a schema is at which these revisions were applied."""
    if not applied:
        return "empty"
    if any(revision not in revisions.known for revision in applied):
        return "ahead"
    return "current" if revisions.heads <= set(applied) else "behind"


async def schema_state(database: DatabaseManager) -> State:
    """Where the schema is. Raises what the driver raises where the database is away."""
    packages = (PLATFORM_MIGRATIONS, *database.migrations)
    revisions = await asyncio.to_thread(
        lambda: read_revisions(versions_folder(package) for package in packages)
    )
    async with database.async_engine.connect() as connection:
        return state_of(await connection.run_sync(_applied), revisions)


def read_revisions(folders: Iterable[Path]) -> Revisions:
    """What these folders hold."""
    known: set[str] = set()
    followed: set[str] = set()
    for folder in folders:
        for path in folder.glob("*.py"):
            if path.name.startswith(("__init__", ".#")):  # as Alembic
                continue
            values = _literals(path)
            if "revision" not in values:
                continue
            known.add(values["revision"])
            before = values.get("down_revision") or ()
            followed.update((before,) if isinstance(before, str) else before)
    return Revisions(frozenset(known), frozenset(known - followed))


def versions_folder(package: str) -> Path:
    """Where a migration package keeps its revisions."""
    module = importlib.import_module(package)
    if module.__file__ is None:
        raise ImportError(f"{package} is not a package with an __init__.py")
    return Path(module.__file__).parent / "versions"


def _literals(path: Path) -> dict[str, Any]:
    """`revision` and `down_revision` of a file. Raises ValueError where one is no literal."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id in {"revision", "down_revision"}:
                found[target.id] = ast.literal_eval(value)
    return found


def _applied(connection: Connection) -> list[str]:
    if not inspect(connection).has_table(_VERSIONS.name):
        return []
    return list(connection.execute(select(_VERSIONS.c.version_num)).scalars())
