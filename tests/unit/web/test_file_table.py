"""The kernel's table of files is as large as told, and no file is left open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, sys
from scalable_fastapi_system.web.file_table import grow_file_table

files, allowed = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
before = os.listdir("/proc/self/fd")
grow_file_table(files)
assert os.listdir("/proc/self/fd") == before
print(next(line for line in open("/proc/self/status") if line.startswith("FDSize")).split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the size of the table")
@pytest.mark.parametrize(("files", "allowed", "size"), [(2048, 4096, 2048), (2048, 512, 512), (1, 4096, 64)])
def test_the_table_has_room_for_the_files_that_the_process_may_open(
    files: int, allowed: int, size: int
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(files), str(allowed)], capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert size <= int(ran.stdout) <= 2 * max(size, 128)
