"""File storage: one small file is written, read and removed, as an upload would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.doctor.network import is_reachable
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import InvalidKeyError, StorageError, create_storage
from scalable_fastapi_system.kit.errors import APIException, ConfigurationError
from scalable_fastapi_system.kit.ids import new_id

AREA = "storage"
CONTENT = b"doctor"
_TRIES_SECONDS = 20.0  # the client's own retries take up to fifteen


async def examine_storage(
    report: Report, settings: Settings, database: DatabaseManager, *, timeout_seconds: float
) -> None:
    """Says whether files can be kept. Files in the database need a usable schema: ask only then."""
    url = str(settings.storage.url)
    where = urlsplit(url).scheme
    endpoint = next(
        (value for key, value in settings.storage.options.items() if key.lower().endswith("endpoint")), None
    )
    if endpoint is not None:
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not await is_reachable(
            report,
            AREA,
            parts.hostname or "",
            port,
            variable="STORAGE__OPTIONS",
            timeout_seconds=timeout_seconds,
        ):
            return
    key = f"doctor/{new_id()}"
    try:
        storage = create_storage(settings, database)
        async with asyncio.timeout(_TRIES_SECONDS):
            await storage.put(key, _content())
            read = b"".join([piece async for piece in storage.open(key)])
            await storage.delete(key)
    except ConfigurationError as error:
        report.problem(AREA, str(error), "Correct STORAGE__URL and STORAGE__OPTIONS.")
    except (StorageError, InvalidKeyError, APIException, OSError, TimeoutError) as error:
        report.problem(AREA, *_explain(error, where))
    else:
        if read == CONTENT:
            report.ok(AREA, f"A file can be written to {where}://, read and removed.")
        else:
            report.problem(
                AREA, "What was read is not what was written.", "See that nothing else writes to that place."
            )


async def _content() -> AsyncIterator[bytes]:
    yield CONTENT


def _explain(error: Exception, where: str) -> tuple[str, str]:
    reason = error.__cause__ or error
    words = " ".join(str(reason).split())[:300]
    kind = type(reason).__name__
    if isinstance(reason, PermissionError):
        folder = f": {reason.filename}" if reason.filename else ""
        return (
            f"The storage refuses: no right to write{folder}.",
            "Give the account (or the pod's user, 10001) that right.",
        )
    if "169.254" in words:
        return (
            "No credentials were found: the client asked the cloud's own metadata service, which does not answer.",
            "Give it keys by STORAGE__OPTIONS or a workload identity (serviceAccount.annotations in the chart).",
        )
    if kind in {"PermissionDeniedError", "UnauthenticatedError"}:
        return (
            f"The storage refuses these credentials ({kind}): {words}",
            "Correct the keys, or the policy: put, get, delete and list below the prefix.",
        )
    if isinstance(reason, FileNotFoundError) or kind == "NotFoundError":
        return ("The bucket, container or folder does not exist.", "Create it, or correct STORAGE__URL.")
    if isinstance(reason, TimeoutError):
        return (
            f"The storage ({where}://) does not answer within {_TRIES_SECONDS:g} s.",
            "Look at the way there: egress NetworkPolicy, proxy, endpoint.",
        )
    return (f"The storage does not work: {words}", "Correct STORAGE__URL and STORAGE__OPTIONS.")
