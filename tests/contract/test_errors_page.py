"""docs/errors.md: its codes are the code's, with their statuses, and what it shows is what happens."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import APIException, ConflictException
from scalable_fastapi_system.web.problems import _CODES, problem_body

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/errors.md").read_text()
ROOTS = {"scalable_fastapi_system", "domains"}
# What Starlette and FastAPI answer of their own: a form that cannot be read, no such path, no such method.
FRAMEWORKS = (400, 404, 405)
# What takes a status and no code: the code is then made of the status.
BY_STATUS = {"HTTPException", "_refuse"}
Classes = dict[str, type[APIException]]
Pair = tuple[int, str]  # status and code


def listed() -> list[Pair]:
    """The rows of the page's table."""
    rows = re.findall(r"^\| (\d{3}) \| `([A-Z_]+)` \| \S", PAGE, re.MULTILINE)
    return [(int(status), code) for status, code in rows]


@cache
def modules() -> dict[str, ast.Module]:
    """The packages' code, by the name under which it is imported."""
    found = {}
    for root in ROOTS:
        folder = REPOSITORY / "packages" / root / "src"
        for path in folder.rglob("*.py"):
            name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


def name_of(expression: ast.expr) -> str:
    return expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")


@cache
def exception_classes() -> Classes:
    """Every exception that a client may read, by name."""
    definitions = [
        (module, node)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    names, count = {"APIException"}, 0
    while count != len(names):
        count = len(names)
        names |= {node.name for _, node in definitions if {name_of(base) for base in node.bases} & names}
    for module, node in definitions:
        if node.name in names:
            importlib.import_module(module)
    found, waiting = {}, [APIException]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if one.__module__.partition(".")[0] in ROOTS:
            found[one.__name__] = one
    assert set(found) == names
    return found


def pair(status: int, code: str | None) -> Pair:
    body = problem_body(status=status, message="", path="", request_id=None, error_code=code)
    return status, body["error_code"]


def codes_in(tree: ast.Module, classes: Classes) -> Iterator[Pair]:
    """The statuses and codes of the calls that make an error."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        values = [one.value for one in given if isinstance(one, ast.Constant)]
        status = next((one for one in values if isinstance(one, int) and 400 <= one < 600), None)
        code = next(
            (one for one in values if isinstance(one, str) and re.fullmatch("[A-Z]+(_[A-Z]+)*", one)), None
        )
        name = name_of(call.func)
        if name in classes and (status or code):
            yield pair(status or classes[name].status_code, code or classes[name].error_code)
        elif name in BY_STATUS and status:
            yield pair(status, None)


def test_the_page_lists_every_code_of_the_code_with_its_status_and_no_other() -> None:
    classes = exception_classes()
    given = {pair(one.status_code, one.error_code) for one in classes.values()}
    given |= {pair(status, None) for status in FRAMEWORKS} | set(_CODES.items())
    for tree in modules().values():
        given |= set(codes_in(tree, classes))
    assert sorted(listed()) == sorted(given)


def test_a_code_that_the_page_lacks_is_found() -> None:
    tree = ast.parse(
        'raise APIException("No tea here", 418, "TEAPOT")\n'
        'raise errors.ConflictException("Somebody was first", error_code="TOO_LATE")\n'
        "raise HTTPException(402)\n"
        'raise NotFoundException("There is no such thing")\n'
    )
    found = set(codes_in(tree, exception_classes()))
    assert found == {(418, "TEAPOT"), (409, "TOO_LATE"), (402, "PAYMENT_REQUIRED")}


async def test_the_failure_that_the_page_shows_is_what_is_answered(
    make_settings: Callable[..., Settings],
) -> None:
    asked, shown = re.findall(r"/auth/register .*-d '(.+)'\n(\{.+\})\n", PAGE)[0]
    app = create_app(make_settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/auth/register", json=json.loads(asked))
    expected = json.loads(shown)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert {**answer.json(), "request_id": ""} == {**expected, "request_id": ""}
    assert list(answer.json()) == list(expected)


def test_the_error_of_one_s_own_has_the_status_and_code_that_the_page_says() -> None:
    (example,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    with pytest.raises(ConflictException, match="3 are left") as raised:
        exec(example, {"__name__": "example"})
    assert (raised.value.status_code, raised.value.error_code) == (409, "OUT_OF_STOCK")
