"""The guide's background tasks, as durable jobs.

`background_task(task_id, task_data)` stores a job under that id. Data that names a public kind
(`{"kind": "reports.build", "arguments": {…}}`) runs that; any other is processed by `data.process`, which also backs
`POST /process-data`.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import AfterValidator

from scalable_fastapi_system.jobs.client import JobClient
from scalable_fastapi_system.jobs.context import JobContext
from scalable_fastapi_system.jobs.current import current_client
from scalable_fastapi_system.jobs.enqueueing import JobHandle
from scalable_fastapi_system.jobs.registry import job
from scalable_fastapi_system.kit.errors import ValidationException

RESULT_TTL_SECONDS = 3600
MAX_FIELDS = 200
MAX_PATH_CHARACTERS = 200


def _exact(data: dict[str, Any]) -> dict[str, Any]:
    """Lets through what comes back from storage as it went in. Python's reader of JSON takes more than JSON has."""
    try:
        raw = orjson.dumps(data)
    except TypeError as error:
        raise ValueError(f"This cannot be kept as it is: {error}") from None
    # It writes null for what is not finite: without one there is nothing to look for, and large data are not walked here.
    if b"null" in raw and any(
        isinstance(value, float) and not math.isfinite(value) for _, _, value, _ in _walk(data)
    ):
        raise ValueError("This cannot be kept as it is: a number in it is infinite, or none")
    return data


@job("data.process", timeout_seconds=300)
async def process_data(
    ctx: JobContext, *, data: Annotated[dict[str, Any], AfterValidator(_exact)]
) -> dict[str, Any]:
    """Describes JSON data: its shape, its numbers, a fingerprint. Kept as the job's result, and for an hour in the cache."""
    result = summarize(data)
    data_id = data.get("id")
    if isinstance(data_id, str | int):
        await ctx.resources.cache.set(f"task_result:{data_id}", result, ttl=RESULT_TTL_SECONDS)
    return result


async def background_task(
    task_id: str | UUID, task_data: Mapping[str, Any], *, owner_id: int | None = None
) -> JobHandle:
    """Stores a background task under the given id (a UUID) and returns once it is safe. Doing it again changes nothing.

    Raises ValidationException for an id that is no UUID or data that names no public kind.
    """
    try:
        job_id = task_id if isinstance(task_id, UUID) else UUID(task_id)
    except ValueError:
        raise ValidationException("The id of a task is a UUID", field="task_id") from None
    client = current_client()
    kind, arguments = task_of(task_data, client)
    return await client.enqueue_now(kind, job_id=job_id, owner_id=owner_id, **arguments)


def task_of(task_data: Mapping[str, Any], client: JobClient) -> tuple[str, dict[str, Any]]:
    """The job kind and the arguments that a client's task data ask for."""
    kind = task_data.get("kind")
    if kind is None:
        return process_data.kind, {"data": dict(task_data)}
    handler = client.find_handler(kind) if isinstance(kind, str) else None
    if handler is None or not handler.is_public:
        raise ValidationException(f"There is no task of the kind {str(kind)[:100]!r}", field="kind")
    arguments = task_data.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValidationException("The arguments of a task are an object", field="arguments")
    return handler.kind, arguments


def summarize(data: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of JSON data: sizes, depth, how often each type occurs, and for each field with numbers their statistics.

    Fields beyond the first 200, and those with a path of more than 200 characters, are without.
    """
    types: Counter[str] = Counter()
    numbers: dict[str, list[float]] = {}
    depth = 0
    for parent, name, value, level in _walk(data):
        depth = max(depth, level)
        types[_type_name(value)] += 1
        if not _is_number(value):
            continue
        path = _path(parent, name)
        if path is not None and (path in numbers or len(numbers) < MAX_FIELDS):
            numbers.setdefault(path, []).append(float(value))
    raw = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    return {
        "id": data.get("id"),
        "fields": len(data),
        "values": sum(count for name, count in types.items() if name not in {"object", "array"}),
        "depth": depth,
        "types": dict(sorted(types.items())),
        "numbers": {path: _statistics(values) for path, values in sorted(numbers.items())},
        "size_bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def _walk(root: Any) -> Iterator[tuple[str | None, str | None, Any, int]]:
    """Every value with the path of what holds it, its name there (list items have none) and its depth.

    No recursion, JSON may be deep. A path is made for what holds values and not for each of them: ten thousand with the
    same long name before their own would be that name ten thousand times.
    """
    waiting: list[tuple[Iterator[tuple[str | None, Any]], str | None]] = [(iter([(None, root)]), "")]
    while waiting:
        members, parent = waiting[-1]
        member = next(members, None)
        if member is None:
            waiting.pop()
            continue
        name, value = member
        yield parent, name, value, len(waiting) - 1
        if isinstance(value, Mapping):
            waiting.append((iter(value.items()), _path(parent, name)))
        elif isinstance(value, list):
            waiting.append((((None, item) for item in value), _path(parent, name)))


def _path(parent: str | None, name: str | None) -> str | None:
    """The path of a member (list items share that of their list); None for one that is too long."""
    if parent is None or name is None:
        return parent
    if len(parent) + len(name) >= MAX_PATH_CHARACTERS:
        return None
    return f"{parent}.{name}" if parent else name


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _statistics(values: list[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "min": min(values),
        "max": max(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
    }
