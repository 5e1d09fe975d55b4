"""The committed OpenAPI document: what breaks clients is refused with what it is, additions only ask to be written down."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hack.reference import openapi
from hack.reference.openapi import SNAPSHOT, check, installed_program, write
from hack.tools.common import ToolError

Document = dict[str, Any]


@pytest.fixture
def oasdiff() -> Path:
    program = installed_program()
    if program is None:
        pytest.skip(
            "oasdiff is not installed: `make check` or `hack/tools/install oasdiff` builds it where Go is"
        )
    return program


@pytest.fixture
def document() -> Document:
    found: Document = json.loads(SNAPSHOT.read_text())
    return found


@pytest.fixture
def snapshot(tmp_path: Path, document: Document) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    return path


def _schema(document: Document, name: str) -> Document:
    found: Document = document["components"]["schemas"][name]
    return found


def remove_path(document: Document) -> None:
    del document["paths"]["/tasks"]


def remove_operation(document: Document) -> None:
    del document["paths"]["/datasets/{dataset_id}"]["delete"]


def remove_parameter(document: Document) -> None:
    parameters = document["paths"]["/tasks"]["get"]["parameters"]
    parameters[:] = [parameter for parameter in parameters if parameter["name"] != "kind"]


def remove_response(document: Document) -> None:
    operation = document["paths"]["/tasks/background"]["post"]
    operation["responses"]["200"] = operation["responses"].pop("202")


def remove_required_property(document: Document) -> None:
    schema = _schema(document, "TaskOut")
    del schema["properties"]["result"]
    schema["required"].remove("result")


def remove_optional_property(document: Document) -> None:
    del _schema(document, "TaskError")["properties"]["traceback"]


def require_new_member(document: Document) -> None:
    schema = _schema(document, "UserCreate")
    schema["properties"]["birthday"] = {"type": "string", "format": "date"}
    schema["required"].append("birthday")


def narrow_type(document: Document) -> None:
    _schema(document, "ApiKeyCreate")["properties"]["expires_in_days"] = {"type": "integer"}


def narrow_enum(document: Document) -> None:
    _schema(document, "ApiKeyCreate")["properties"]["scopes"]["items"]["enum"].remove("tasks:read")


def narrow_length(document: Document) -> None:
    _schema(document, "UserCreate")["properties"]["username"]["maxLength"] = 5


def ask_for_a_scope(document: Document) -> None:
    for entry in document["paths"]["/users/me"]["get"]["security"]:
        entry.update({name: [*scopes, "admin:users"] for name, scopes in entry.items()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove_path, "GET /tasks"),
        (remove_operation, "DELETE /datasets/{dataset_id}"),
        (remove_parameter, "kind"),
        (remove_response, "202"),
        (remove_required_property, "result"),
        (remove_optional_property, "traceback"),
        (require_new_member, "birthday"),
        (narrow_type, "expires_in_days"),
        (narrow_enum, "tasks:read"),
        (narrow_length, "username"),
        (ask_for_a_scope, "admin:users"),
    ],
)
def test_what_breaks_a_client_is_refused_and_named(
    change: Callable[[Document], None], said: str, document: Document, snapshot: Path, oasdiff: Path
) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    with pytest.raises(ToolError, match="would break clients") as refused:
        check(snapshot, json.dumps(changed), oasdiff=oasdiff)
    assert said in str(refused.value)
    assert "make openapi BREAKING=yes" in refused.value.hint


def add_path(document: Document) -> None:
    document["paths"]["/tasks/newest"] = copy.deepcopy(document["paths"]["/tasks"])


def add_optional_parameter(document: Document) -> None:
    document["paths"]["/tasks"]["get"]["parameters"].append(
        {"name": "colour", "in": "query", "required": False, "schema": {"type": "string"}}
    )


def add_property(document: Document) -> None:
    _schema(document, "TaskOut")["properties"]["colour"] = {"type": "string"}


def add_value(document: Document) -> None:
    _schema(document, "ApiKeyCreate")["properties"]["scopes"]["items"]["enum"].append("orders:read")


@pytest.mark.parametrize("change", [add_path, add_optional_parameter, add_property, add_value])
def test_an_addition_breaks_nothing_but_is_to_be_written_down(
    change: Callable[[Document], None], document: Document, snapshot: Path, oasdiff: Path
) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    with pytest.raises(ToolError, match="though nothing breaks") as told:
        check(snapshot, json.dumps(changed), oasdiff=oasdiff)
    assert told.value.hint == "run `make openapi` and commit the file"


def test_writing_refuses_a_break_unless_it_is_meant(
    document: Document, snapshot: Path, oasdiff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openapi, "program", lambda: oasdiff)
    former = snapshot.read_text()
    remove_path(document)
    with pytest.raises(ToolError, match="left as it is"):
        write(snapshot, json.dumps(document), may_break=False)
    assert snapshot.read_text() == former
    write(snapshot, json.dumps(document), may_break=True)
    assert json.loads(snapshot.read_text()) == document
    check(snapshot, json.dumps(document), oasdiff=oasdiff)


def test_a_missing_snapshot_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is not there") as told:
        check(tmp_path / "openapi.json", "{}", oasdiff=tmp_path)
    assert "make openapi" in told.value.hint


def test_the_document_does_not_depend_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API__TITLE", "Somebody's own")
    assert "Somebody's own" not in openapi.rendered()
