"""Profiles a CSV table: rows, and for each column its type, missing and distinct values, range, spread and top values.

Everything here is blocking and made for a thread; it needs no database, no request and no network. Memory is
bounded whatever the table, see `limits`. A file that is no table raises `UnreadableTableError`, whose text is
for the person who uploaded it.
"""

from domains.datasets.profiling.errors import ProfileCancelledError, UnreadableTableError
from domains.datasets.profiling.run import ProfileRun
from domains.datasets.profiling.workplace import workplace

__all__ = ["ProfileCancelledError", "ProfileRun", "UnreadableTableError", "workplace"]
