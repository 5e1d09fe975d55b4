"""What is read out of Python's, the kernel's and the image tools' own words."""

from __future__ import annotations

from tests.bench.footprint import imports, services, sizes, tables
from tests.bench.footprint.imports import STATEMENTS, Took
from tests.bench.footprint.services import Memory, Service

IMPORTTIME = """\
import time: self [us] | cumulative | imported package
import time:       500 |        500 |     fastapi.routing
import time:      1000 |       1500 |   fastapi
import time:      3000 |       4500 | sqlalchemy
some other line
"""
ROLLUP = """\
55d0c0a00000-7ffd00000000 ---p 00000000 00:00 0                          [rollup]
Rss:               59840 kB
Pss:               36094 kB
Pss_Dirty:         35114 kB
Pss_Anon:          35114 kB
Pss_File:            980 kB
Pss_Shmem:            16 kB
"""
SMAPS = """\
7f0000000000-7f0000100000 r-xp 00000000 fe:00 1234                       /usr/lib/libpython3.11.so.1.0
Size:               1024 kB
Rss:                 800 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f0000100000-7f0000200000 rw-p 00100000 fe:00 1234                       /usr/lib/libpython3.11.so.1.0
Rss:                 300 kB
Anonymous:           200 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Rss:                 512 kB
Anonymous:           512 kB
7f0000300000-7f0000400000 rw-p 00000000 00:00 0                          [heap]
Rss:                 700 kB
Anonymous:           700 kB
7f0000400000-7f0000500000 r--p 00000000 fe:00 99                         /tmp/a name with spaces.so
Rss:                  40 kB
Anonymous:             0 kB
"""


def test_an_import_is_counted_for_its_top_level_package_by_its_own_time():
    assert imports.by_package(IMPORTTIME) == [("sqlalchemy", 3.0), ("fastapi", 1.5)]


def test_memory_that_belongs_to_no_file_is_shared_out():
    assert services.anonymous_kib(ROLLUP) == 35_130


def test_a_mapped_file_counts_what_is_still_its_own():
    assert services.mapped_kib(SMAPS) == {
        "/usr/lib/libpython3.11.so.1.0": 900,
        "/tmp/a name with spaces.so": 40,
    }


def test_only_our_images_are_listed():
    listing = (
        "localhost/scalable-fastapi-system/worker:1\t300 MB\n"
        "localhost/postgres:17\t400 MB\n"
        "localhost/scalable-fastapi-system/api:1\t250 MB\n"
    )
    assert sizes.ours(listing) == [
        ("localhost/scalable-fastapi-system/api:1", "250 MB"),
        ("localhost/scalable-fastapi-system/worker:1", "300 MB"),
    ]


def test_what_is_asked_is_asked_of_the_warm_start_the_idle_api_and_the_library():
    def found(run_seconds: float, mib: float, seconds: float) -> list[bool]:
        taken = {**dict.fromkeys(STATEMENTS, Took(9, 9)), next(iter(STATEMENTS)): Took(seconds, 9)}
        api = Service("api", idle=Memory(rss=500, pss=1, alone=mib, processes=2))
        return [one.is_reached for one in tables.asked(run_seconds=run_seconds, api=api, imports=taken)]

    assert found(9.9, 149, 0.4) == [True, True, True]
    assert found(10.1, 149, 0.6) == [False, True, False]
    assert found(9.9, 151, 0.4) == [True, False, True]
