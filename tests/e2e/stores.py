"""Stores that are not the chart's: a plain Postgres and Redis for a release in `external` mode."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.system import System, until

PASSWORD = "of-the-tests"
DATABASE_URL = f"postgresql://app:{PASSWORD}@stores:5432/app"
REDIS_URL = f"redis://:{PASSWORD}@stores:6379/0"
MAX_CONNECTIONS = 400


def container(
    name: str, image: str, arguments: list[str], folder: str, ready: list[str], env: dict[str, str]
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "args": arguments,
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "readinessProbe": {"exec": {"command": ready}, "periodSeconds": 1, "timeoutSeconds": 10},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": name, "mountPath": folder}],
    }


def start(system: System, postgres_image: str, redis_image: str) -> None:
    """A pod with both in the release's namespace, and the service `stores`; returns once they answer."""
    postgres = container(
        "postgres",
        postgres_image,
        ["postgres", "-c", f"max_connections={MAX_CONNECTIONS}", "-c", "fsync=off"],
        "/data",
        ["pg_isready", "--host=127.0.0.1", "--username=app"],
        {"POSTGRES_USER": "app", "POSTGRES_PASSWORD": PASSWORD, "PGDATA": "/data/pgdata"},
    )
    redis = container(
        "redis",
        redis_image,
        ["redis-server", "--requirepass", PASSWORD, "--save", ""],
        "/data",
        ["redis-cli", "-a", PASSWORD, "ping"],
        {},
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stores", "labels": {"app": "stores"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 999,
                "runAsGroup": 999,
                "fsGroup": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [postgres, redis],
            "volumes": [{"name": name, "emptyDir": {}} for name in ("postgres", "redis")],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "stores"},
        "spec": {
            "selector": {"app": "stores"},
            "ports": [{"name": "postgres", "port": 5432}, {"name": "redis", "port": 6379}],
        },
    }
    for manifest in (pod, service):
        system.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def ready() -> bool:
        statuses = system.get("pod", "stores")["status"].get("containerStatuses", [])
        return bool(statuses) and all(status["ready"] for status in statuses)

    until(ready, 180, "Postgres and Redis answer")


def secrets_of_a_platform(system: System) -> None:
    """What a platform team would have made: the settings' Secret, and one for each store's URL."""
    for name, data in {
        "platform-settings": {
            "SECURITY__SECRET_KEY": "a key of the tests that nobody else has, 64 characters long, or a few more"
        },
        "database-app": {"uri": DATABASE_URL},
        "cache": {"url": REDIS_URL},
    }.items():
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        system.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
