"""Webhooks: an owner's endpoints hear of each end of the owner's jobs, signed as Standard Webhooks are.

The delivery is planned in the transaction that ends the job, and is a job itself: it is tried for a day and more with
growing pauses, survives whatever the engine survives, and is logged with its last answer. An endpoint that answers 410
is disabled. The body names the job and its state; results and arguments are read with the owner's own credentials.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.http_client import OutboundError, OutboundRefusedError
from scalable_fastapi_system.infra.tracing import current_traceparent
from scalable_fastapi_system.jobs.context import JobContext
from scalable_fastapi_system.jobs.enqueueing import current_request_id
from scalable_fastapi_system.jobs.errors import FailJobError, RetryJobError
from scalable_fastapi_system.jobs.records import Hint
from scalable_fastapi_system.jobs.registry import Backoff, job
from scalable_fastapi_system.jobs.store.clock import backend_of, database_now
from scalable_fastapi_system.jobs.store.deliveries import (
    DELIVER_KIND,
    DELIVER_QUEUE,
    MAX_DELIVERY_ATTEMPTS,
    delivery_job,
    enqueue_deliveries,
)
from scalable_fastapi_system.jobs.tables import jobs, webhook_deliveries, webhook_endpoints
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ConflictException, NotFoundException, ValidationException
from scalable_fastapi_system.kit.ids import new_id

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix that Standard Webhooks gives to secrets
_SECRET_BYTES = 32
ROTATION_OVERLAP = timedelta(hours=24)
MAX_SECRETS = 10
MAX_ENDPOINTS = 10
MAX_URL_LENGTH = 2000
_HOST_AND_PATH = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?([/?]([A-Za-z0-9._~:/?@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?"
# A name in ASCII or an IPv4 address; no credentials before it. OpenAPI shows it to clients.
URL_PATTERN = f"^https://{_HOST_AND_PATH}$"
_ENDPOINTS_LOCK = 0x77686F6B  # the first of an advisory lock's two numbers; the owner is the second
_MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
_MAX_ERROR_CHARACTERS = 500


# -- endpoints ------------------------------------------------------------------------------------------


async def add_endpoint(
    session: AsyncSession, *, owner_id: int, url: str, kinds: Sequence[str], allow_plain_http: bool
) -> tuple[dict[str, Any], str]:
    """An owner's new endpoint and its secret, which is shown this once. `kinds`: of these jobs only; none: of all."""
    scheme = "https?" if allow_plain_http else "https"
    if len(url) > MAX_URL_LENGTH or re.fullmatch(f"{scheme}://{_HOST_AND_PATH}", url) is None:
        raise ValidationException(
            f"A webhook's address begins with {'http:// or ' if allow_plain_http else ''}https://, names its host "
            "in ASCII and holds no credentials",
            field="url",
        )
    await _lock_endpoints(session, owner_id)
    if len(await list_endpoints(session, owner_id=owner_id)) >= MAX_ENDPOINTS:
        raise ConflictException(f"There are {MAX_ENDPOINTS} webhooks already: delete one first")
    secret = _new_secret()
    row = {
        "id": new_id(),
        "created_at": await database_now(session),
        "disabled_at": None,
        "owner_id": owner_id,
        "url": url,
        "disabled_reason": None,
        "secrets": [{"secret": secret, "expires_at": None}],
        "kinds": sorted(set(kinds)),
    }
    await session.execute(insert(webhook_endpoints).values(row))
    return row, secret


async def list_endpoints(session: AsyncSession, *, owner_id: int) -> list[dict[str, Any]]:
    """An owner's endpoints, the oldest first."""
    rows = await session.execute(
        select(webhook_endpoints)
        .where(webhook_endpoints.c.owner_id == owner_id)
        .order_by(webhook_endpoints.c.id)
    )
    return [dict(row._mapping) for row in rows]


async def find_endpoint(session: AsyncSession, *, endpoint_id: UUID, owner_id: int) -> dict[str, Any]:
    """An endpoint of the owner's. Raises NotFoundException."""
    found = [one for one in await list_endpoints(session, owner_id=owner_id) if one["id"] == endpoint_id]
    if not found:
        raise NotFoundException("There is no such webhook")
    return found[0]


async def remove_endpoint(session: AsyncSession, *, endpoint_id: UUID, owner_id: int) -> None:
    """Deletes an endpoint and its log. Raises NotFoundException."""
    await find_endpoint(session, endpoint_id=endpoint_id, owner_id=owner_id)
    await session.execute(delete(webhook_deliveries).where(webhook_deliveries.c.endpoint_id == endpoint_id))
    await session.execute(delete(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id))


async def enable_endpoint(session: AsyncSession, *, endpoint_id: UUID, owner_id: int) -> None:
    """Makes a disabled endpoint hear again. Raises NotFoundException."""
    await find_endpoint(session, endpoint_id=endpoint_id, owner_id=owner_id)
    await session.execute(
        update(webhook_endpoints)
        .where(webhook_endpoints.c.id == endpoint_id)
        .values(disabled_at=None, disabled_reason=None)
    )


async def rotate_secret(session: AsyncSession, *, endpoint_id: UUID, owner_id: int) -> str:
    """A new secret; for a day the former sign, too, so that the receiver can change over. Raises NotFoundException."""
    await _lock_endpoints(session, owner_id)
    endpoint = await find_endpoint(session, endpoint_id=endpoint_id, owner_id=owner_id)
    secret = _new_secret()
    now = await database_now(session)
    ends = (now + ROTATION_OVERLAP).isoformat()
    former = [
        {"secret": one["secret"], "expires_at": one["expires_at"] or ends}
        for one in endpoint["secrets"]
        if _is_valid(one, now)
    ]
    await session.execute(
        update(webhook_endpoints)
        .where(webhook_endpoints.c.id == endpoint_id)
        .values(secrets=[{"secret": secret, "expires_at": None}, *former[: MAX_SECRETS - 1]])
    )
    return secret


async def _lock_endpoints(session: AsyncSession, owner_id: int) -> None:
    """Until the transaction ends, another one waits here that is to change what it reads of this owner's endpoints."""
    if backend_of(session) == "postgresql":
        await session.execute(select(func.pg_advisory_xact_lock(_ENDPOINTS_LOCK, owner_id)))
        return
    # A change of nothing. On SQLite it takes the one lock there is, whatever it finds. On MariaDB it locks the rows: an owner
    # who has none yet, and adds many at once, may get more than the limit.
    await session.execute(
        update(webhook_endpoints)
        .where(webhook_endpoints.c.owner_id == owner_id)
        .values(owner_id=webhook_endpoints.c.owner_id)
    )


# -- deliveries -----------------------------------------------------------------------------------------


async def list_deliveries(
    session: AsyncSession, *, endpoint_id: UUID, owner_id: int, limit: int
) -> list[dict[str, Any]]:
    """What an endpoint was told, the newest first. Raises NotFoundException."""
    await find_endpoint(session, endpoint_id=endpoint_id, owner_id=owner_id)
    rows = await session.execute(
        select(webhook_deliveries)
        .where(webhook_deliveries.c.endpoint_id == endpoint_id)
        .order_by(webhook_deliveries.c.created_at.desc())
        .limit(limit)
    )
    return [dict(row._mapping) for row in rows]


async def replay_delivery(
    session: AsyncSession, *, delivery_id: UUID, endpoint_id: UUID, owner_id: int
) -> list[Hint]:
    """Sends a delivery again, with the same id and body. Hints to push after the commit.

    Raises NotFoundException, and ConflictException where the endpoint is disabled.
    """
    endpoint = await find_endpoint(session, endpoint_id=endpoint_id, owner_id=owner_id)
    if endpoint["disabled_at"] is not None:
        raise ConflictException("The webhook is disabled: enable it first")
    found = await session.execute(
        select(webhook_deliveries.c.id).where(
            webhook_deliveries.c.id == delivery_id, webhook_deliveries.c.endpoint_id == endpoint_id
        )
    )
    if found.scalar_one_or_none() is None:
        raise NotFoundException("There is no such delivery")
    row = delivery_job(delivery_id, current_traceparent(), current_request_id())
    return await enqueue_deliveries(session, [row])


# -- sending --------------------------------------------------------------------------------------------


@job(
    DELIVER_KIND,
    queue=DELIVER_QUEUE,
    timeout_seconds=60,
    max_attempts=MAX_DELIVERY_ATTEMPTS,
    # Eleven pauses of at most 2 min, 4 min … 17 h, 24 h; about 29 h on the whole, since each is half as long on average.
    backoff=Backoff(base_seconds=120.0, cap_seconds=24 * 3600.0),
)
async def deliver(ctx: JobContext, *, delivery_id: UUID) -> None:
    """Sends one delivery. A 2xx ends it; 410 disables the endpoint; anything else is tried again later."""
    async with ctx.resources.database.transaction() as session:
        found = await _load(session, delivery_id)
    if found is None:
        return  # the endpoint was removed
    delivery, endpoint, body = found
    if endpoint["disabled_at"] is not None:
        raise FailJobError(f"the webhook is disabled: {endpoint['disabled_reason']}")
    now = utc_now()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "scalable-fastapi-system",
        "webhook-id": str(delivery_id),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": sign(
            str(delivery_id), now, body, [one for one in endpoint["secrets"] if _is_valid(one, now)]
        ),
    }
    status: int | None = None
    problem: str | None = None
    retry_after_seconds: float | None = None
    is_refused = False
    try:
        answer = await ctx.http.request(
            "POST",
            endpoint["url"],
            headers=headers,
            content=body,
            is_repeatable=False,
            on_behalf_of=str(endpoint["id"]),
            wants_body=False,  # the receiver chooses its length, and many deliveries run at once
        )
        status = answer.status_code
        retry_after_seconds = _retry_after(answer.headers.get("retry-after"), now)
    except OutboundRefusedError as error:
        problem, is_refused = str(error), "public internet" in str(error)
    except OutboundError as error:
        problem = str(error)
    is_delivered = status is not None and 200 <= status < 300
    if status is not None and not is_delivered:
        problem = f"the endpoint answered {status}"
    async with ctx.transaction(finish=False) as session:
        await _log_attempt(session, delivery, status, problem, body, is_delivered=is_delivered)
        if status == 410:
            await _disable(session, endpoint["id"], "it answered 410 Gone")
    if is_delivered:
        return
    if status == 410 or is_refused:
        raise FailJobError(problem or "refused")
    raise RetryJobError(problem or "no answer", delay_seconds=retry_after_seconds)


def sign(delivery_id: str, moment: datetime, body: bytes, keys: Sequence[dict[str, Any]]) -> str:
    """The signature header: one `v1,…` for each key, as receivers that change keys need it."""
    message = f"{delivery_id}.{int(moment.timestamp())}.".encode() + body
    signatures = []
    for key in keys:
        raw = base64.b64decode(key["secret"].removeprefix(SECRET_PREFIX))
        digest = hmac.new(raw, message, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(digest).decode()}")
    return " ".join(signatures)


async def _load(
    session: AsyncSession, delivery_id: UUID
) -> tuple[dict[str, Any], dict[str, Any], bytes] | None:
    """A delivery, its endpoint and its body; the body is made once and then kept, so that every try sends the same."""
    delivery = (
        await session.execute(select(webhook_deliveries).where(webhook_deliveries.c.id == delivery_id))
    ).one_or_none()
    if delivery is None:
        return None
    endpoint = (
        await session.execute(select(webhook_endpoints).where(webhook_endpoints.c.id == delivery.endpoint_id))
    ).one_or_none()
    if endpoint is None:
        return None
    payload = delivery.payload
    if payload is None:
        row = (await session.execute(select(jobs).where(jobs.c.id == delivery.job_id))).one_or_none()
        payload = _payload(delivery, row)
    return (
        dict(delivery._mapping),
        dict(endpoint._mapping),
        orjson.dumps(payload, option=orjson.OPT_SORT_KEYS),
    )


def _payload(delivery: Any, row: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"id": str(delivery.job_id), "status": delivery.event.removeprefix("task.")}
    if row is not None:
        error = row.error if isinstance(row.error, dict) else None
        data |= {
            "kind": row.kind,
            "attempt": row.attempt,
            "created_at": row.created_at.isoformat(),
            "finished_at": row.finished_at.isoformat() if row.finished_at else None,
            "error": {"type": error.get("type"), "message": error.get("message")} if error else None,
        }
    return {"type": delivery.event, "timestamp": delivery.created_at.isoformat(), "data": data}


async def _log_attempt(
    session: AsyncSession,
    delivery: dict[str, Any],
    status: int | None,
    problem: str | None,
    body: bytes,
    *,
    is_delivered: bool,
) -> None:
    values: dict[str, Any] = {
        "attempts": webhook_deliveries.c.attempts + 1,
        "last_status": status,
        "last_error": problem[:_MAX_ERROR_CHARACTERS] if problem else None,
        "payload": orjson.loads(body),
    }
    if is_delivered:
        values["delivered_at"] = await database_now(session)
    await session.execute(
        update(webhook_deliveries).where(webhook_deliveries.c.id == delivery["id"]).values(values)
    )


async def _disable(session: AsyncSession, endpoint_id: UUID, reason: str) -> None:
    await session.execute(
        update(webhook_endpoints)
        .where(webhook_endpoints.c.id == endpoint_id)
        .values(disabled_at=await database_now(session), disabled_reason=reason)
    )


def _is_valid(key: dict[str, Any], now: datetime) -> bool:
    return key["expires_at"] is None or datetime.fromisoformat(key["expires_at"]) > now


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header, a number or a date; at most a day."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), _MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the second for a year that no date has
        return None
    if moment.tzinfo is None:
        return None
    return min(max(0.0, (moment - now).total_seconds()), _MAX_RETRY_AFTER_SECONDS)


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
