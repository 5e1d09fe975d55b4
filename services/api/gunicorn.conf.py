"""gunicorn's settings, from the same environment as everything else.

One process by default: in a cluster pods are scaled, and a limit or a metric then means one thing. With more
than one, the processes share their metrics through files (prometheus_client's multiprocess mode).
"""

import os
import resource
import shutil
import sys
import tempfile

from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.kit.errors import ConfigurationError

try:
    settings = load_settings()
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(4)

bind = f"{settings.api.host}:{settings.api.port}"
# The setting alone, and not gunicorn's WEB_CONCURRENCY: the chart counts connections by it.
workers = settings.api.workers
worker_class = "services.api.uvicorn_worker.ServiceWorker"
keepalive = settings.api.keep_alive_seconds
graceful_timeout = int(settings.api.shutdown_grace_seconds) + 5
timeout = 60  # a worker whose loop says nothing for this long is replaced
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - a heartbeat must not wait for a disk
accesslog = None  # the platform writes its own line per request
errorlog = "-"
loglevel = "warning"
control_socket_disable = (
    True  # nothing to administer from outside, and a read-only root has no place for a socket
)

# Each connection is a file. The usual soft limit of 1024 would let some hundred idle clients keep everybody else out.
_files, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
_wanted_files = 16_384 if _most_files == resource.RLIM_INFINITY else min(16_384, _most_files)
if _files != resource.RLIM_INFINITY and _files < _wanted_files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_wanted_files, _most_files))

_metrics_folder: str | None = None
if workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    _metrics_folder = tempfile.mkdtemp(prefix="prometheus-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder


def child_exit(_server, worker):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - gunicorn's hook
    """Takes the gauges of a process that is gone out of the sums."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - gunicorn's hook
    """Removes what this process made."""
    if _metrics_folder is not None:
        shutil.rmtree(_metrics_folder, ignore_errors=True)
