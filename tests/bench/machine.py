"""What the machine does while something is measured: our processes, other people's, and what the hypervisor took."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from hack.dev.errors import DevError

SERVER_CORE = 0
OTHER_CORE = 1  # the load generator's and the stores'
_TICK = os.sysconf("SC_CLK_TCK")


def check_machine() -> None:
    """Raises DevError where a measurement here would say nothing."""
    if not Path("/proc/stat").exists():
        raise DevError("the bench reads /proc and pins processes: it runs on Linux")
    if len(os.sched_getaffinity(0)) < 2:
        raise DevError("the bench needs two processors: one for the server, one for the load")
    for name, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(name) is None:
            raise DevError(f"{name} is not installed", advice=f"Install it: apt install {package}")


@dataclass(frozen=True, slots=True)
class Clock:
    """Processor seconds so far, of the whole machine and of what we started."""

    busy: float
    steal: float
    ours: float
    children: float  # of our own ended children: the load generator

    @classmethod
    def read(cls, roots: Iterable[int]) -> Clock:
        """`roots`: the processes whose families are ours."""
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _waiting, irq, softirq, steal = (int(field) / _TICK for field in fields)
        times = os.times()
        return cls(
            busy=user + nice + system + irq + softirq + steal,
            steal=steal,
            ours=sum(family_seconds(pid) for pid in roots),
            children=times.children_user + times.children_system,
        )

    def foreign_percent(self, since: Clock, seconds: float) -> float:
        """What neither we nor our load took, as a share of one core."""
        used = (self.busy - since.busy) - (self.ours - since.ours) - (self.children - since.children)
        return used / seconds * 100

    def steal_percent(self, since: Clock, seconds: float) -> float:
        """What the hypervisor gave to others, as a share of one core."""
        return (self.steal - since.steal) / seconds * 100


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def family_seconds(pid: int) -> float:
    """Processor seconds of a process and its descendants, of those that have ended too."""
    seconds = 0.0
    for process in family(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system
        if process.pid == pid:
            seconds += times.children_user + times.children_system
    return seconds


def family_memory_bytes(pid: int) -> int:
    """Memory of a process and its descendants; pages that they share count once (PSS)."""
    total = 0
    for process in family(pid):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def pin(pid: int, core: int) -> None:
    """Puts a process and its descendants, and with them all that they will start, on one core."""
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            process.cpu_affinity([core])


def describe() -> dict[str, str]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": f"{model}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
