"""Redis (or Valkey): the way in, eviction, persistence, memory, role. All of it is in INFO, which any account may read."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.doctor.network import is_reachable
from scalable_fastapi_system.infra.settings import RedisSettings

AREA = "redis"
VARIABLE = "REDIS__REDIS_URL"
OLDEST = (6, 2)
FULL_SHARE = 0.9


async def examine_redis(report: Report, settings: RedisSettings, *, timeout_seconds: float) -> bool:
    """Whether it can be used; True where none is configured."""
    if settings.redis_url is None:
        return True
    url = str(settings.redis_url)
    if settings.redis_ssl and url.startswith("redis://"):
        url = url.replace("redis://", "rediss://", 1)
    parts = urlsplit(url)
    if parts.scheme != "unix" and not await is_reachable(
        report,
        AREA,
        parts.hostname or "localhost",
        parts.port or 6379,
        variable=VARIABLE,
        timeout_seconds=timeout_seconds,
    ):
        return False
    client = Redis.from_url(
        url,
        db=settings.redis_db,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        await client.ping()
        facts: dict[str, Any] = await client.info()
    except (RedisError, OSError, TimeoutError) as error:
        text, step = _explain(error, is_tls=url.startswith("rediss://"), timeout_seconds=timeout_seconds)
        report.problem(AREA, text, step)
        return False
    finally:
        await client.aclose()
    report.ok(AREA, "It lets this account in.")
    _look_at_role(report, facts)
    _look_at_version(report, facts)
    _look_at_memory(report, facts)
    _look_at_persistence(report, facts)
    return True


def _explain(error: Exception, *, is_tls: bool, timeout_seconds: float) -> tuple[str, str]:
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__ or error.__context__
    words = str(error)
    if isinstance(error, AuthenticationError):
        if "without any password" in words:
            return (
                "This Redis has no password, and one was given.",
                f"Take it out of {VARIABLE}, or better: set one in the server (requirepass).",
            )
        if "required" in words.lower():
            return (
                "Redis wants a password, and none was given.",
                f"Put it into {VARIABLE}: redis://:…@host.",
            )
        return (
            "Redis refuses the password.",
            f"Give {VARIABLE} and the server the same user and password.",
        )
    if isinstance(error, NoPermissionError):
        return (
            f"The account may not do what is needed: {words}.",
            "Allow it in the ACL: +ping +info, and more.",
        )
    if isinstance(error, BusyLoadingError):
        return ("Redis is loading its data.", "Wait; the system works from Postgres meanwhile.")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"The certificate of Redis is not accepted: {cause.verify_message}.",
            f"Mount the right CA and name it by ssl_ca_certs in {VARIABLE}, and use the name in the certificate.",
        )
    if isinstance(cause, ssl.SSLError) or (is_tls and "SSL" in words):
        return (
            f"TLS with Redis fails ({getattr(cause, 'reason', None) or words}).",
            f"If the server has no TLS on that port, use redis:// in {VARIABLE}.",
        )
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        if is_tls:  # a server without TLS takes the greeting for the beginning of a long command
            return (
                f"Redis does not answer the TLS greeting within {timeout_seconds:g} s: that port has no TLS, or it is frozen.",
                f"If the server has no TLS on that port, use redis:// in {VARIABLE}.",
            )
        return (
            f"Redis takes the connection and says nothing for {timeout_seconds:g} s.",
            "It is frozen, busy with a slow command (SLOWLOG GET), or not a Redis.",
        )
    if isinstance(error, ResponseError):
        return (f"Redis refuses: {words}.", f"Correct {VARIABLE}; the number at its end is the database.")
    if not is_tls and ("closed" in words.lower() or "reset" in words.lower()):
        return (
            "Redis closes the connection before it answers.",
            f"If the port wants TLS, use rediss:// in {VARIABLE}; see also maxclients.",
        )
    return (f"Redis does not answer: {words}.", "Look at the server's log.")


def _look_at_role(report: Report, facts: dict[str, Any]) -> None:
    if facts.get("role") == "slave":
        report.problem(AREA, "It is a replica: it only reads.", f"Point {VARIABLE} at the primary.")
    if facts.get("cluster_enabled"):
        report.problem(
            AREA,
            "It is a Redis Cluster, whose keys live on many servers; this platform speaks to one.",
            "Use a Redis or Valkey without cluster mode.",
        )


def _look_at_version(report: Report, facts: dict[str, Any]) -> None:
    version = str(facts.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        report.warning(
            AREA,
            f"Version {version} is older than what this release is tested with (6.2 and later).",
            "Upgrade it.",
        )


def _look_at_memory(report: Report, facts: dict[str, Any]) -> None:
    policy, bound = str(facts.get("maxmemory_policy")), int(facts.get("maxmemory", 0))
    if policy == "noeviction":
        report.ok(AREA, "Its eviction policy is noeviction: hints and counters stay.")
    else:
        report.problem(
            AREA,
            f"Its eviction policy is {policy}: when it is full, rate-limit counters and hints for jobs vanish; limits "
            "are not kept and jobs start late.",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration (a managed Redis: its parameter group).",
        )
    if bound == 0:
        report.warning(
            AREA,
            "It has no maxmemory: it grows until the kernel or the kubelet kills it.",
            "Set maxmemory to about half of the container's limit.",
        )
    elif int(facts.get("used_memory", 0)) > FULL_SHARE * bound:
        report.warning(
            AREA,
            f"It uses {facts['used_memory_human']} of {facts['maxmemory_human']}: soon it refuses writes.",
            "Raise maxmemory, or lower CACHE__DEFAULT_TTL_SECONDS.",
        )


def _look_at_persistence(report: Report, facts: dict[str, Any]) -> None:
    if facts.get("aof_enabled"):
        if facts.get("aof_last_write_status") != "ok":
            report.problem(
                AREA, "It cannot write its append-only file.", "Look at its disk: full, read-only or gone."
            )
        else:
            report.ok(AREA, "It keeps an append-only file.")
        return
    if facts.get("rdb_last_bgsave_status") != "ok":
        report.problem(
            AREA,
            "Its last snapshot failed; a Redis that cannot save refuses writes.",
            "Look at its disk and memory: full, read-only, or no room to fork.",
        )
    report.note(
        AREA,
        "It keeps no append-only file: after a restart the cache is cold and counters begin anew. No job is lost.",
        "Where that matters: CONFIG SET appendonly yes (redis.persistence.enabled in the chart).",
    )
