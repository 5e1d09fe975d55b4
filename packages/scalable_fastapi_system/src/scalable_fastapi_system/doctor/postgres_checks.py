"""PostgreSQL: the way in, version, connections, clock, role; each failure its own sentence and next step."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.doctor.network import is_reachable
from scalable_fastapi_system.infra.database.urls import asyncpg_dsn
from scalable_fastapi_system.infra.settings import DatabaseSettings

OLDEST_TESTED = 15
NEWEST_TESTED = 18
CLOCK_WARNING_SECONDS = 1.0
CLOCK_PROBLEM_SECONDS = 10.0  # leases last tens of seconds, one-time codes less
# Beside the pools of the settings: one for the look at the schema, two for jobs enqueued by themselves …
PLAIN_CONNECTIONS = 3
# … and in a worker three for the engine and two for its quick writes. The chart counts with the same numbers.
WORKER_CONNECTIONS = PLAIN_CONNECTIONS + 5


async def examine_postgres(
    report: Report,
    area: str,
    variable: str,
    url: str,
    *,
    timeout_seconds: float,
    now: Callable[[], datetime],
    wanted_connections: int | None = None,
    settings: DatabaseSettings | None = None,
) -> bool:
    """Whether it can be used. `settings` is given for the primary, None for a replica."""
    parsed = make_url(url)
    host, port = parsed.host or "", parsed.port or 5432
    if (
        host
        and not host.startswith("/")
        and not await is_reachable(
            report, area, host, port, variable=variable, timeout_seconds=timeout_seconds
        )
    ):
        return False
    connection = await _connect(report, area, variable, url, timeout_seconds)
    if connection is None:
        return False
    try:
        report.ok(area, f"{host or 'the socket'} lets {parsed.username} into database {parsed.database}.")
        await _look_at_version(report, area, connection)
        await _look_at_clock(report, area, connection, now)
        is_primary = await _look_at_role(report, area, connection, is_replica_wanted=settings is None)
        if settings is not None:
            await _look_at_connections(report, area, connection, settings, wanted_connections)
        return is_primary or settings is None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        report.problem(
            area,
            f"The connection broke while it was looked at ({type(error).__name__}: {error}).",
            "Look at the server's log.",
        )
        return False
    finally:
        connection.terminate()


async def _connect(
    report: Report, area: str, variable: str, url: str, timeout_seconds: float
) -> asyncpg.Connection | None:
    parsed = make_url(url)
    role, database = parsed.username, parsed.database
    try:
        # No prepared statements, so that a pooler in transaction mode is no obstacle.
        return await asyncpg.connect(
            asyncpg_dsn(url),
            timeout=timeout_seconds,
            command_timeout=timeout_seconds,
            statement_cache_size=0,
        )
    except asyncpg.InvalidPasswordError:
        text = f"Postgres refuses the password of role {role}."
        step = (
            f"Give {variable} and the server the same password. After a reinstall the volume still has the old one: "
            "restore its Secret, or `ALTER ROLE … PASSWORD` in the database pod."
        )
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        if "no encryption" in str(error) or "SSL off" in str(error):
            text, step = (
                "Postgres takes only TLS connections from here.",
                f"Add ?sslmode=require (or verify-full) to {variable}.",
            )
        else:
            text, step = (
                f"Postgres does not let role {role} in from here: {error}.",
                "Create the role, or allow it in pg_hba.conf.",
            )
    except asyncpg.InvalidCatalogNameError:
        text, step = (
            f"Postgres has no database {database}.",
            f"Create it (`CREATE DATABASE {database} OWNER {role}`), or correct {variable}.",
        )
    except asyncpg.TooManyConnectionsError as error:
        text = f"Postgres has no connection left: {error}."
        step = "Raise max_connections, lower pool sizes or replicas, or put PgBouncer between."
    except asyncpg.CannotConnectNowError as error:
        text, step = (
            f"Postgres is not ready: {error}.",
            "Wait: it is starting, recovering or shutting down. Its log says which.",
        )
    except ssl.SSLCertVerificationError as error:
        text = f"The certificate of Postgres is not accepted: {error.verify_message}."
        step = f"Mount the right CA and name it by sslrootcert in {variable}, and use the name in the certificate."
    except ssl.SSLError as error:
        text, step = (
            f"TLS with Postgres fails ({error.reason}).",
            f"See which TLS the server offers, and sslmode in {variable}.",
        )
    except TimeoutError:
        text = f"Postgres takes the connection and says nothing for {timeout_seconds:g} s."
        step = "It is frozen, overloaded, or not a Postgres: look at its pod and its disk."
    except (asyncpg.InterfaceError, ValueError, TypeError) as error:
        text, step = f"The driver cannot use {variable}: {error}.", f"Correct {variable}."
    except ConnectionError as error:
        if "rejected SSL" in str(error):
            text, step = (
                f"{variable} asks for TLS, and this Postgres has none.",
                "Turn on ssl in the server, or drop sslmode where the network is trusted.",
            )
        else:
            text = "Postgres closes the connection before it greets."
            step = f"See that {variable} leads to a Postgres and not to a proxy or another service."
    except asyncpg.PostgresError as error:
        text, step = (f"Postgres refuses: {error} (SQLSTATE {error.sqlstate}).", "Look at the server's log.")
    report.problem(area, text, step)
    return None


async def _look_at_version(report: Report, area: str, connection: asyncpg.Connection) -> None:
    version = connection.get_server_version()
    name = f"Postgres {version.major}.{version.minor}"
    if version.major < OLDEST_TESTED:
        report.warning(
            area,
            f"{name} is older than what this release is tested with ({OLDEST_TESTED} to {NEWEST_TESTED}).",
            "Plan an upgrade: dump, install the new version, restore (docs/operations.md).",
        )
    else:
        report.ok(area, f"It is {name}.")


async def _look_at_clock(
    report: Report, area: str, connection: asyncpg.Connection, now: Callable[[], datetime]
) -> None:
    before = now()
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    after = now()
    # What lies within the round trip cannot be told from its duration.
    ahead = max((before - theirs).total_seconds(), 0.0) - max((theirs - after).total_seconds(), 0.0)
    if abs(ahead) < CLOCK_WARNING_SECONDS:
        report.ok(area, "Its clock and this one agree to a second.")
        return
    text = f"The clock here is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's."
    step = (
        "Run a time service (chrony, systemd-timesyncd) on both machines' hosts, and see that it is in step."
    )
    (report.problem if abs(ahead) >= CLOCK_PROBLEM_SECONDS else report.warning)(area, text, step)


async def _look_at_role(
    report: Report, area: str, connection: asyncpg.Connection, *, is_replica_wanted: bool
) -> bool:
    in_recovery, read_only = await connection.fetchrow(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
    )
    if is_replica_wanted:
        if not in_recovery:
            report.note(area, "The replica is a primary: reads that may lag go to a server that need not.")
        return not in_recovery
    if in_recovery:
        report.problem(
            area,
            "It is a standby: it only reads.",
            "Point DATABASE__DATABASE_URL at the primary (CloudNativePG: the Service that ends in -rw).",
        )
    elif read_only:
        report.problem(
            area,
            "Transactions are read-only for this role or database.",
            "Reset default_transaction_read_only, and look whether the disk is full.",
        )
    return not in_recovery and not read_only


async def _look_at_connections(
    report: Report,
    area: str,
    connection: asyncpg.Connection,
    settings: DatabaseSettings,
    wanted: int | None,
) -> None:
    row: Any = await connection.fetchrow(
        "SELECT current_setting('max_connections')::int AS most,"
        " current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_role,"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS open"
    )
    limits = [row["most"] - row["reserved"]]
    limits += [limit for limit in (row["of_role"], row["of_database"]) if limit is not None and limit >= 0]
    granted = min(limits)
    if wanted is None:
        pools = settings.pool_size + settings.max_overflow + settings.read_pool_size
        wanted = pools + PLAIN_CONNECTIONS + pools + WORKER_CONNECTIONS
        whose = "one API process and one worker"
    else:
        whose = "all pods at full scale"
    text = f"Connections: {whose} could want {wanted}, the server grants this role {granted}, {row['open']} are open."
    if wanted > granted:
        report.problem(
            area,
            text,
            "Lower the pool sizes or the greatest number of replicas, raise max_connections (or the role's limit), "
            "or put PgBouncer between.",
        )
    else:
        report.ok(area, text)
