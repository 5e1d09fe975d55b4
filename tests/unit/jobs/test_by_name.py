"""A job that is enqueued by its kind's name is the same job as one that is enqueued by its handler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobClient, call
from scalable_fastapi_system.jobs.enqueueing import new_job
from scalable_fastapi_system.kit.domain import Domain, Product
from scalable_fastapi_system.kit.errors import ValidationException
from structlog.testing import capture_logs

HANDLERS = """
from scalable_fastapi_system.jobs import job
from scalable_fastapi_system.jobs.context import JobContext

@job("by_name.pack", queue="parcels", priority=5, max_attempts=2, unique=True, concurrency_key="shop:{shop}")
async def pack(ctx: JobContext, *, shop: int) -> None: ...
"""


@pytest.fixture
def client_of(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], JobClient]]:
    """A client of a product whose jobs are the module of that text, which nobody has imported yet."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(text: str) -> JobClient:
        (tmp_path / "by_name_jobs.py").write_text(text)
        product = Product((Domain("parcels", jobs=("by_name_jobs",)),))
        return JobClient(Resources(make_settings(jobs={"mode": "worker"}), product))

    yield make
    sys.modules.pop("by_name_jobs", None)


def test_what_the_handler_says_of_its_jobs_holds_in_a_process_that_has_not_loaded_it(
    client_of: Callable[[str], JobClient],
) -> None:
    client = client_of(HANDLERS)
    assert "by_name_jobs" not in sys.modules

    by_name = new_job(client, call("by_name.pack", shop=7))

    from by_name_jobs import pack  # type: ignore[import-not-found]

    by_handler = new_job(client, call(pack, shop=7))
    said = ("kind", "queue", "priority", "max_attempts", "unique_key", "concurrency_key", "args")
    assert [getattr(by_name, name) for name in said] == [getattr(by_handler, name) for name in said]
    assert (by_name.queue, by_name.priority, by_name.max_attempts) == ("parcels", 5, 2)
    with pytest.raises(ValidationException, match="shop"):
        new_job(client, call("by_name.pack", shop="not a number"))


def test_jobs_that_cannot_be_imported_here_are_enqueued_unchecked_and_the_log_says_so_once(
    client_of: Callable[[str], JobClient],
) -> None:
    client = client_of("import no_such_library_here\n")

    with capture_logs() as lines:
        rows = [new_job(client, call("by_name.elsewhere", shop=number)) for number in (1, 2)]

    assert [row.queue for row in rows] == ["default", "default"]
    (line,) = lines
    assert line["log_level"] == "error"
    assert "no_such_library_here" in line["problem"]
