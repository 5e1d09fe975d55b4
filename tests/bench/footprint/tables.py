"""What was measured, as Markdown, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.footprint.imports import STATEMENTS, Took
from tests.bench.footprint.services import IDLE_SECONDS, Memory, Service
from tests.bench.sections import markdown

MOST_PACKAGES = 8
MOST_RUN_SECONDS = 10.0
MOST_API_MIB = 150.0
MOST_IMPORT_SECONDS = 0.5
_MIB = 1024 * 1024
_LARGEST = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """One figure that has a limit."""

    what: str
    shown: str
    limit: str
    is_reached: bool


def asked(*, run_seconds: float, api: Service, imports: Mapping[str, Took]) -> list[Asked]:
    """What has a limit, and whether it keeps to it."""
    library = next(iter(STATEMENTS))
    found = [
        Asked(
            "`make run` until all is ready, warm",
            f"{run_seconds:.1f} s",
            f"{MOST_RUN_SECONDS:.0f} s",
            run_seconds < MOST_RUN_SECONDS,
        ),
        Asked(
            "memory of an idle API pod",
            f"{api.idle.alone:.0f} MiB",
            f"{MOST_API_MIB:.0f} MiB",
            api.idle.alone < MOST_API_MIB,
        ),
    ]
    seconds = imports[library].seconds
    found.append(
        Asked(library, f"{seconds:.2f} s", f"{MOST_IMPORT_SECONDS} s", seconds < MOST_IMPORT_SECONDS)
    )
    return found


def of_asked(found: Sequence[Asked]) -> str:
    """The limits."""
    rows = [[one.what, one.shown, f"< {one.limit} {'✓' if one.is_reached else '✗'}"] for one in found]
    return markdown(("what", "measured", "asked"), rows)


def of_services(pods: Sequence[Service]) -> str:
    """Start and memory."""
    rows = []
    for pod in pods:
        states = [("idle", pod.idle), *((f"idle after load {n}", one) for n, one in enumerate(pod.loaded, 1))]
        for state, memory in states:
            is_first = memory is pod.idle
            ready = f"{pod.ready_seconds:.2f}" if is_first else ""
            rows.append([pod.name if is_first else "", state, ready, *_memory(memory)])
    head = (
        "service", "state", "ready after s", "MiB as a pod counts", "MiB, PSS", "MiB, RSS of all", "processes",
    )  # fmt: skip
    return (
        f"{markdown(head, rows, words=2)}\n\n"
        f"Ready: from the command to `/health/ready`. Idle: {IDLE_SECONDS:.0f} s after the start or the load. As a pod counts: "
        f"its processes' own memory, and each library file that they have mapped once, as if nothing else ran here."
    )


def of_imports(taken: Mapping[str, Took], *, cold_seconds: float) -> str:
    """Imports, in a fresh interpreter, without what the interpreter itself takes."""
    rows = [[name, f"{took.seconds:.2f}", f"{took.cpu_seconds:.2f}"] for name, took in taken.items()]
    return (
        f"{markdown(('in a fresh interpreter', 'seconds', 'CPU seconds'), rows)}\n\n"
        f"The first `make run` in a checkout, which makes the database too: {cold_seconds:.1f} s."
    )


def of_packages(found: Sequence[tuple[str, float]]) -> str:
    """Where an import's time goes."""
    shown = ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in found)
    return f"Milliseconds of the API's import by package, traced (`-X importtime`), which is slower: {shown}."


def of_libraries(by_service: Mapping[str, Mapping[str, int]], source_bytes: int) -> str:
    """What the virtual environment of each image holds."""
    lines = []
    for service, found in by_service.items():
        largest = list(found.items())[:_LARGEST]
        rest = sum(list(found.values())[_LARGEST:])
        shown = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in largest)
        lines.append(
            f"Libraries of the {service} image, MiB: {sum(found.values()) / _MIB:.0f} in {len(found)} distributions "
            f"({shown}, the others {rest / _MIB:.1f})."
        )
    lines.append(f"The sources: {source_bytes / _MIB:.1f} MiB.")
    return "\n".join(lines)


def of_images(found: Sequence[tuple[str, str]]) -> str:
    """The images that are here."""
    return markdown(("image", "size"), [[name, size] for name, size in found])


def _memory(memory: Memory) -> list[str]:
    sizes = (memory.alone, memory.pss, memory.rss)
    return [*(f"{size:.0f}" for size in sizes), str(memory.processes)]
