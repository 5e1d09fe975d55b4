"""One profile from beginning to end, in a thread, with its progress to be read and its end to be asked for from others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from domains.datasets.profiling import dialect as dialects
from domains.datasets.profiling import text as texts
from domains.datasets.profiling.errors import ProfileCancelledError, UnreadableTableError

# Shares of the whole, as measured on a table of 200 MB.
_TEXT_SHARE = 0.05
_LOAD_SHARE = 0.35


class ProfileRun:
    """Profiles the file at `source`, in a folder of its own.

    The caller puts the file there and removes the folder in the end; in between the run does with both as it likes.
    """

    def __init__(self, folder: Path) -> None:
        """The folder must be empty: all of it is within reach of the engine that reads the file."""
        self.source = folder / "upload"
        self._folder = folder
        self._connection: Any = None
        self._connection_lock = (
            threading.Lock()
        )  # other threads ask and interrupt it while this one closes it
        self._is_loading = False
        self._is_cancelled = threading.Event()
        self._fraction = 0.0
        self.message = "reading the text"

    @property
    def fraction(self) -> float:
        """How far the run is, from 0 to 1; never less than it was. May be asked from any thread."""
        with self._connection_lock:
            if self._is_loading and self._connection is not None:
                percent: float = self._connection.query_progress()  # -1 before it knows
                loaded = _TEXT_SHARE + _LOAD_SHARE * min(100.0, max(0.0, percent)) / 100
                self._fraction = max(self._fraction, loaded)
            return self._fraction

    def cancel(self) -> None:
        """Makes `run` raise ProfileCancelledError soon. May be called from any thread, at any time."""
        self._is_cancelled.set()
        with self._connection_lock:
            if self._connection is not None:
                self._connection.interrupt()

    def run(self) -> dict[str, Any]:
        """The profile, as plain values for JSON. Blocks.

        Raises UnreadableTableError where the file is no table, ProfileCancelledError after `cancel`.
        """
        size_bytes = self.source.stat().st_size
        text = texts.prepare(self.source, self._folder / "table.csv", self._tick)
        if text.path != self.source:
            self.source.unlink()  # rewritten
        found = dialects.detect(text)
        rows, columns = self._measure(text, found)
        return {
            "rows": rows,
            "column_count": len(columns),
            "size_bytes": size_bytes,
            "encoding": text.encoding.removesuffix("-sig"),
            "delimiter": found.delimiter,
            "has_header": found.has_header,
            "columns": columns,
        }

    def _measure(self, text: texts.Text, found: dialects.Dialect) -> tuple[int, list[dict[str, Any]]]:
        import duckdb

        from domains.datasets.profiling import columns, engine

        connection = engine.connect(self._folder, columns=len(found.names))
        try:
            self._connection = connection
            self.message = "reading the table"
            self._is_loading = True
            self._check()
            try:
                rows = engine.load(connection, text, found)
                text.path.unlink()  # all of it is in the engine now: the disk need not hold both
            finally:
                self._fraction = _TEXT_SHARE + _LOAD_SHARE
                self._is_loading = False
            profiles: list[dict[str, Any]] = []
            for number, name in enumerate(found.names):
                self._check()
                done = number / len(found.names)
                self._fraction = _TEXT_SHARE + _LOAD_SHARE + (1 - _TEXT_SHARE - _LOAD_SHARE) * done
                self.message = f"measuring column {number + 1} of {len(found.names)}"
                profiles.append(columns.measure(connection, number, name, rows))
            self._fraction = 1.0
            return rows, profiles
        except duckdb.InterruptException:
            raise ProfileCancelledError from None
        # A commit that finds no memory comes as a TransactionException; nothing else can fail one here.
        except (duckdb.OutOfMemoryException, duckdb.TransactionException):
            raise UnreadableTableError(
                "The table needs more memory or disk than a profile may use: try fewer rows or shorter values."
            ) from None
        finally:
            with self._connection_lock:
                self._connection = None
            connection.close()

    def _tick(self, share: float) -> None:
        self._check()
        self._fraction = _TEXT_SHARE * share

    def _check(self) -> None:
        if self._is_cancelled.is_set():
            raise ProfileCancelledError
