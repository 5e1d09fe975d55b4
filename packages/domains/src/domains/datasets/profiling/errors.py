"""How profiling ends other than well."""

from __future__ import annotations


class UnreadableTableError(Exception):
    """The file is no table that can be profiled. The message says what to mend, in words for its owner."""


class ProfileCancelledError(Exception):
    """`ProfileRun.cancel` was called."""
