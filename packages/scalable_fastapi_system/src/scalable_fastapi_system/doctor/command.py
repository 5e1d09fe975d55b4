"""`manage doctor`: looks at everything, says what is wrong, exits 0 or 1."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import Any

from scalable_fastapi_system.doctor.cluster_checks import (
    ACCOUNT_FOLDER,
    APIS,
    ApiServer,
    Release,
    examine_cluster,
)
from scalable_fastapi_system.doctor.database_checks import examine_database
from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.doctor.redis_checks import examine_redis
from scalable_fastapi_system.doctor.settings_checks import examine_settings
from scalable_fastapi_system.doctor.storage_checks import examine_storage
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.domain import Product


def add_doctor_command(commands: Any) -> None:
    """Adds `doctor` to a parser's subcommands. It reads the settings itself: they may be what is wrong."""
    doctor = commands.add_parser(
        "doctor", help="say in plain words what is wrong with this installation; exit 1 if anything is"
    )
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument("--strict", action="store_true", help="a warning fails, too")
    doctor.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="wait for each server at the most (5)"
    )
    doctor.add_argument(
        "--wanted-connections",
        type=int,
        metavar="N",
        help="what all pods' pools could want of Postgres together; without it one API process and one worker are reckoned",
    )
    cluster = doctor.add_argument_group(
        "in a cluster, with a service account that may read (the chart's Job)"
    )
    cluster.add_argument("--release", metavar="NAME", help="the Helm release; without it no cluster is asked")
    cluster.add_argument(
        "--expect",
        action="append",
        choices=sorted(APIS),
        default=[],
        help="an API that the release relies on",
    )
    cluster.add_argument(
        "--storage-class",
        action="append",
        default=[],
        metavar="NAME",
        help="a StorageClass that a store asks for; empty: the default one",
    )
    doctor.set_defaults(examine=examine)


def examine(arguments: argparse.Namespace, product: Product) -> int:
    """Looks, prints, and returns the exit code."""
    report = Report()
    settings = examine_settings(report)
    if settings is not None:
        asyncio.run(_examine_stores(report, settings, product, arguments))
    if arguments.release is not None:
        _examine_cluster(report, arguments)
    sys.stdout.write((report.as_json() if arguments.json else report.as_text()) + "\n")
    return report.exit_code(strict=arguments.strict)


async def _examine_stores(
    report: Report, settings: Settings, product: Product, arguments: argparse.Namespace
) -> None:
    product.load_models()
    database = DatabaseManager(settings, migrations=(product.migrations,) if product.migrations else ())
    try:
        has_schema = await examine_database(
            report,
            settings,
            database,
            timeout_seconds=arguments.timeout,
            now=lambda: datetime.now(UTC),
            wanted_connections=arguments.wanted_connections,
        )
        await examine_redis(report, settings.redis, timeout_seconds=arguments.timeout)
        if has_schema or not str(settings.storage.url).startswith("database:"):
            await examine_storage(report, settings, database, timeout_seconds=arguments.timeout)
        else:
            report.note("storage", "Files are kept in the database, which is not usable yet: not looked at.")
    finally:
        await database.stop()


def _examine_cluster(report: Report, arguments: argparse.Namespace) -> None:
    server = ApiServer.of_this_pod(timeout_seconds=arguments.timeout, folder=ACCOUNT_FOLDER)
    if server is None:
        report.problem(
            "cluster",
            "This is no pod of a cluster, or it mounts no token of a service account.",
            "Run it by the chart's Job (doctor.enabled=true), or without --release.",
        )
        return
    namespace_file = ACCOUNT_FOLDER / "namespace"
    namespace = os.environ.get("POD_NAMESPACE") or namespace_file.read_text().strip()
    release = Release(arguments.release, namespace, arguments.expect, arguments.storage_class)
    examine_cluster(report, server, release)
