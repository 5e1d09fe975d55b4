"""What docs/http-client.md and docs/feature-flags.md show is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from scalable_fastapi_system import Settings, create_app
from scalable_fastapi_system.infra.flags import parse_flags
from scalable_fastapi_system.infra.http_client import OutboundError, OutboundRefusedError
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.jobs.testing import InlineContext, run_job
from starlette.requests import Request

DOCS = Path(__file__).parents[3] / "docs"
MakeSettings = Callable[..., Settings]


def block(page: str, name: str) -> str:
    text = (DOCS / page).read_text()
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```\n", text, re.DOTALL)
    assert found is not None, f"{page} has no block {name!r}"
    return found[1]


def example(page: str, name: str) -> dict[str, Any]:
    """The names that the page's example defines. Its jobs are called `page.…` here."""
    names: dict[str, Any] = {"__name__": "example_of_the_page"}
    exec(compile(block(page, name).replace('@job("', '@job("page.'), name, "exec"), names)
    return names


@pytest.fixture(scope="module")
def rates() -> dict[str, Any]:
    return example("http-client.md", "rates.py")


class Bank:
    """In the place of the process's client."""

    def __init__(self, *answers: httpx.Response | OutboundError) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, str, dict[str, Any]]] = []

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        self.calls.append((method, url, options))
        answer = self.answers.pop(0)
        if isinstance(answer, OutboundError):
            raise answer
        return answer

    async def close(self) -> None:
        pass


async def test_the_endpoint_of_the_page_answers_and_says_503_when_the_service_is_away(
    make_settings: MakeSettings, rates: dict[str, Any]
) -> None:
    app = create_app(make_settings())
    app.include_router(rates["router"])
    app.state.resources.http = Bank(
        httpx.Response(200, json={"rate": "1.17"}), httpx.Response(500), OutboundError("bank: ConnectError")
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answers = [await client.get("/rates/USD") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 503, 503]
    assert answers[0].json()["data"] == 1.17
    assert answers[1].headers["retry-after"] == "5"


async def test_the_job_of_the_page_sends_its_key_and_fails_where_the_bank_does(rates: dict[str, Any]) -> None:
    bank = Bank(httpx.Response(201, json={"number": 7}), httpx.Response(409))
    context = InlineContext(resources=SimpleNamespace(http=bank))
    assert await run_job(rates["buy"], context=context, currency="USD") == 7
    assert bank.calls[0][2]["headers"] == {"Idempotency-Key": context.idempotency_key}
    with pytest.raises(OutboundError):
        await run_job(rates["buy"], context=context, currency="USD")


async def test_only_the_client_for_inside_reaches_what_is_inside(
    make_settings: MakeSettings, rates: dict[str, Any]
) -> None:
    settings = make_settings(http_client={"max_retries": 0})
    client, resources = rates["inside"](settings), Resources(settings)
    with pytest.raises(OutboundError, match="ConnectError"):  # nobody listens there
        await client.request("GET", "http://127.0.0.1:1/")
    with pytest.raises(OutboundRefusedError):
        await resources.http.request("GET", "http://127.0.0.1:1/")
    await client.close()
    await resources.http.close()


async def test_the_flags_of_the_page_are_read_and_used(make_settings: MakeSettings, tmp_path: Path) -> None:
    text, names = block("feature-flags.md", "flags.yaml"), example("feature-flags.md", "reports.py")
    assert set(parse_flags(text, is_yaml=True)) == {"new-report", "colour"}
    (tmp_path / "flags.yaml").write_text(text)
    resources = Resources(make_settings(flags={"file": tmp_path / "flags.yaml"}))

    async def kind_for(number: int, role: str) -> int:
        user = SimpleNamespace(id=number, role=role)
        answer = await names["report"](Request({"type": "http"}), resources, user)
        return int(json.loads(answer.body)["data"]["kind"])

    assert await kind_for(1, "admin") == 2
    assert 0 < [await kind_for(number, "user") for number in range(200)].count(2) < 100
    with resources.flags.provider.override(new_report=True, colour="green"):
        assert await kind_for(1, "user") == 2
        assert await run_job(names["paint"], resources=resources) == "green"
    assert await run_job(names["paint"], resources=resources) == "blue"
