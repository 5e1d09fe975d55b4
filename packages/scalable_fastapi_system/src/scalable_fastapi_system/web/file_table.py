"""Room for a process's connections in the kernel's table of its files, before they come."""

from __future__ import annotations

import fcntl
import os
import resource

FILES = 8192  # 64 KiB of the kernel's memory


def grow_file_table(files: int = FILES) -> None:
    """Has the kernel make room for so many open files, or for as many as the process may have.

    Linux doubles the table as files come, and where threads share it waits each time until every processor has passed a quiet
    moment: some 15 ms in which the loop stands still in `accept`, at the 256th connection, the 512th, and so on. A table that
    has grown stays so.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY:
        files = min(files, allowed)
    any_file = os.open(os.devnull, os.O_RDONLY)
    try:
        os.close(fcntl.fcntl(any_file, fcntl.F_DUPFD_CLOEXEC, files - 1))
    except OSError:
        pass  # all of them are open already
    finally:
        os.close(any_file)
