"""The links of the product's OpenAPI: from an answer to the operations that take its id, each of which exists."""

from __future__ import annotations

from typing import Any

import pytest
from domains.registry import PRODUCT
from scalable_fastapi_system import create_app


@pytest.fixture
def document(make_settings) -> dict[str, Any]:
    found: dict[str, Any] = create_app(make_settings(), PRODUCT).openapi()
    return found


def links(document: dict[str, Any], path: str, status: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path]["post"]["responses"][status].get("links", {})
    return {link["operationId"]: link["parameters"] for link in found.values()}


def operations(document: dict[str, Any], *prefixes: str) -> set[str]:
    """The operations on paths with one parameter below these."""
    return {
        operation["operationId"]
        for path, found in document["paths"].items()
        for operation in found.values()
        if path.startswith(prefixes) and path.count("{") == 1
    }


@pytest.mark.parametrize("path", ["/tasks/background", "/process-data"])
def test_an_accepted_task_leads_to_everything_that_can_be_done_with_it(document, path):
    found = links(document, path, "202")
    assert set(found) == operations(document, "/tasks/{task_id}") != set()
    assert all(parameters == {"task_id": "$response.body#/task_id"} for parameters in found.values())


def test_an_upload_leads_to_the_dataset_and_to_its_task(document):
    found = links(document, "/datasets", "202")
    assert set(found) == operations(document, "/tasks/{task_id}", "/datasets/{dataset_id}")
    assert found["get_dataset_datasets__dataset_id__get"] == {"dataset_id": "$response.body#/data/id"}


@pytest.mark.parametrize(("path", "below"), [("/webhooks", "/webhooks/{"), ("/api-keys", "/api-keys/{")])
def test_what_was_made_leads_to_what_can_be_done_with_it(document, path, below):
    assert set(links(document, path, "201")) == operations(document, below) != set()


def test_an_answer_that_names_nothing_leads_nowhere(document):
    assert links(document, "/auth/logout", "200") == {}
