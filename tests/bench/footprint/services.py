"""The API and the worker as their images run them: how long a start takes, and how much memory before and after a load."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psycopg

from hack.dev.errors import DevError
from tests.bench import load
from tests.bench.footprint.environments import PYTHONPATH
from tests.bench.machine import SERVER_CORE, family, family_memory_bytes
from tests.bench.servers import Platform, Server
from tests.bench.stores import Stores
from tests.bench.works import ME, Work

IDLE_SECONDS = 5.0
LOADS = 3
_CONNECTIONS = 32
_PATIENCE_SECONDS = 240.0
_MIB = 1024 * 1024
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")
_RESIDENT = re.compile(r"^(Rss|Anonymous): +(\d+) kB$")
_TASKS = Work("tasks", "a list of tasks", "/tasks?limit=100")
_TASK = Work("task", "a task", "/tasks/background", "POST", {"numbers": [1, 2, 3]})
_OPEN_JOBS = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes of a service, in MiB.

    rss: what each process sees, so what they share counts in each. pss: the same shared out, also with other programs on
    this machine that have the same libraries open. alone: as a pod's counts, in which nobody else is: anonymous memory
    shared out, and each mapped file once.
    """

    rss: float
    pss: float
    alone: float
    processes: int

    @classmethod
    def of(cls, server: Server) -> Memory:
        """Now."""
        members = family(server.child.pid)
        files: dict[str, int] = {}
        anonymous = 0
        for member in members:
            folder = Path(f"/proc/{member.pid}")
            anonymous += anonymous_kib((folder / "smaps_rollup").read_text(encoding="utf-8"))
            for path, kib in mapped_kib((folder / "smaps").read_text(encoding="utf-8")).items():
                files[path] = max(files.get(path, 0), kib)
        return cls(
            rss=sum(member.memory_info().rss for member in members) / _MIB,
            pss=family_memory_bytes(server.child.pid) / _MIB,
            alone=(anonymous + sum(files.values())) / 1024,
            processes=len(members),
        )


def anonymous_kib(rollup: str) -> int:
    """What belongs to no file, out of /proc/PID/smaps_rollup, each page divided by the processes that share it."""
    return sum(int(size) for size in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", rollup, re.MULTILINE))


def mapped_kib(smaps: str) -> dict[str, int]:
    """What is in memory of each mapped file, out of /proc/PID/smaps, without the pages that were written to."""
    sizes: dict[str, int] = {}
    path = ""
    for line in smaps.splitlines():
        if head := _MAPPING.match(line):
            path = head[1]
        elif path.startswith("/") and (field := _RESIDENT.match(line)):
            kib = int(field[2])
            sizes[path] = sizes.get(path, 0) + (kib if field[1] == "Rss" else -kib)
    return sizes


@dataclass(slots=True)
class Service:
    """What one of the two came to. `loaded`: after each load, idle again."""

    name: str
    ready_seconds: float = 0.0
    idle: Memory = Memory(0, 0, 0, 0)
    loaded: list[Memory] = field(default_factory=list)


class Api(Platform):
    """The API with the product that is in this repository."""

    def __init__(self, stores: Stores, dsn: str, python: Path) -> None:
        super().__init__(
            "api",
            stores,
            dsn=dsn,
            environment={"PYTHONPATH": PYTHONPATH},
            application="services.api.main:app",
            manage="services.manage",
            python=str(python),
        )

    def seed(self, owner: int) -> None:
        """Nothing: that product has no items."""

    def prepare(self) -> None:
        """Makes the callers."""
        self._tokens = self.make_tokens()


class Worker(Server):
    """The worker's process, with the API's settings."""

    def __init__(self, api: Platform, stores: Stores, python: Path) -> None:
        settings = {**api.settings, "JOBS__HEALTH_HOST": "127.0.0.1", "JOBS__HEALTH_PORT": "{port}"}
        command = [str(python), "-m", "services.worker"]
        super().__init__("worker", command, settings, stores, cores=str(SERVER_CORE))


def measure(stores: Stores, pythons: Mapping[str, Path], *, starts: int, seconds: int) -> list[Service]:
    """Starts both so many times, and loads the last ones. Raises DevError where one does not start or end its jobs.

    pythons: the interpreters of `api` and `worker`, with the libraries of their images.
    """
    dsn = stores.new_database("bench_footprint")
    api = Api(stores, dsn, pythons["api"])
    api.migrate()
    worker = Worker(api, stores, pythons["worker"])
    services: dict[Server, Service] = {server: Service(server.name) for server in (api, worker)}
    try:
        for server, service in services.items():
            taken = []
            for _ in range(starts):
                server.stop()
                taken.append(server.start(probe="/health/ready"))
                print(f"{service.name} is ready after {taken[-1]:.2f} s", file=sys.stderr, flush=True)
            service.ready_seconds = median(taken)
        time.sleep(IDLE_SECONDS)
        for server, service in services.items():
            service.idle = Memory.of(server)
        api.prepare()
        for number in range(1, LOADS + 1):
            for work in (ME, _TASKS, _TASK):
                call = api.call(work)
                load.run(call, seconds=seconds, connections=_CONNECTIONS, folder=stores.folder)
            _await_jobs(dsn)
            time.sleep(IDLE_SECONDS)
            for server, service in services.items():
                service.loaded.append(Memory.of(server))
            print(f"load {number} of {LOADS} is done", file=sys.stderr, flush=True)
    finally:
        for server in services:
            server.stop()
    return list(services.values())


def _await_jobs(dsn: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with psycopg.connect(dsn, autocommit=True) as database:
        while (row := database.execute(_OPEN_JOBS).fetchone()) is not None and row[0] > 0:
            if time.monotonic() > deadline:
                raise DevError(f"the worker has not ended {row[0]} jobs within {_PATIENCE_SECONDS:.0f} s")
            time.sleep(0.2)
