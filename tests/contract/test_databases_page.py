"""docs/databases.md: how a product's own dependencies and background tasks stand to the `Transaction` of an endpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.exceptions import DependencyScopeError
from fastapi.testclient import TestClient
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.kit.errors import ConflictException
from sqlalchemy import text

pytestmark = pytest.mark.usefixtures("chosen_database")

PAGE = Path(__file__).resolve().parents[2] / "docs/databases.md"


@pytest.fixture
def example() -> dict[str, Any]:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if "def noted(" in block)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(found, str(PAGE), "exec"), names)
    return names


def lines_of(app: FastAPI) -> list[str]:
    resources: Resources = app.state.resources
    with resources.database.SessionLocal() as session:
        return list(session.scalars(text("SELECT line FROM notes ORDER BY line")))


def test_what_the_dependency_writes_is_of_the_transaction_and_the_task_has_one_of_its_own(
    example: dict[str, Any],
) -> None:
    app = create_app()
    app.include_router(example["router"])

    async def refused(notes: Any) -> None:
        notes.append("refused")
        raise ConflictException("sold out")

    refused.__annotations__["notes"] = example["Notes"]
    app.post("/refused")(refused)
    with TestClient(app) as client:
        with app.state.resources.database.SessionLocal() as session:
            session.execute(text("DROP TABLE IF EXISTS notes"))
            session.execute(text("CREATE TABLE notes (line VARCHAR(40))"))
            session.commit()
        assert client.post("/refused").status_code == 409
        assert lines_of(app) == []
        assert client.post("/orders").status_code == 200
        assert lines_of(app) == ["after the answer", "ordered"]


def test_without_the_scope_the_route_is_refused(example: dict[str, Any]) -> None:
    app = create_app()

    async def order(notes: Any) -> None: ...

    order.__annotations__["notes"] = Annotated[list[str], Depends(example["noted"])]
    with pytest.raises(DependencyScopeError, match="function"):
        app.post("/orders")(order)
