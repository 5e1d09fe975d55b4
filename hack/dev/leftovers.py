"""Ending what a launcher that was killed left running. Raises DevError for a process that will not end."""

from __future__ import annotations

from collections.abc import Callable

from hack.dev import postgres, redis_server
from hack.dev.layout import Layout
from hack.dev.processes import end

GRACE_SECONDS = 10.0


def end_leftovers(layout: Layout, *, announce: Callable[[str], None]) -> int:
    """End the children of a run that is over, in the order of a normal stop; how many there were.

    The caller holds the layout's lock: no launcher runs.
    """
    ended = 0
    left = {mark.name: mark for mark in layout.read_children() if mark.is_running()}
    for name in ("api", "worker"):
        if name in left:
            announce(f"  ending the {name} that an earlier run left behind (process {left[name].pid})")
            end(left[name], grace_seconds=GRACE_SECONDS)
            ended += 1
    if redis_server.end_leftover(layout.redis_data):
        announce("  ended the redis that an earlier run left behind")
        ended += 1
    if postgres.end_leftover(layout.postgres_data):
        announce("  ended the postgres that an earlier run left behind")
        ended += 1
    layout.remove_children()
    layout.remove_run()
    return ended
