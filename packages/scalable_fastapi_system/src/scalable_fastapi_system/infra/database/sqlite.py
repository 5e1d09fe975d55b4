"""SQLite's connections: how they are set up, and how they end that are thrown away.

An asynchronous one has a thread of its own (aiosqlite's), which hands every result to the loop of the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import weakref
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event

# A writer waits so long for the one lock there is, which a loaded machine may need.
SQLITE_BUSY_SECONDS = 20.0


class SqliteConnection(sqlite3.Connection):
    """The driver's connection, which can be ended although somebody still has a statement of it.

    SQLite keeps a closed connection, and its locks on the file, for as long as one of its statements is open. A caller
    that was cancelled amid one has it in its traceback, until Python's collector comes by.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        cursor = super().cursor(*arguments, **options)
        self._cursors.add(cursor)
        return cursor

    def end(self) -> None:
        """Closes it, which rolls back, whoever has a statement. In the thread that runs its statements."""
        # An open statement keeps up the interruption that `_end` asked for, so that even a rollback would be interrupted.
        # It is also a reader, for whom writers wait where the file has no write-ahead log.
        for cursor in list(self._cursors):
            cursor.close()
        self.close()


class SqliteConnections:
    """Those of one manager's engines."""

    def __init__(self) -> None:
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def prepare(self, engine: Engine) -> None:
        """Sets up each connection, makes a savepoint part of a transaction, and ends what is thrown away."""
        event.listen(engine, "connect", self._configure)
        event.listen(engine, "invalidate", _end)
        event.listen(engine, "savepoint", _begin_before_savepoint)

    async def wait_ended(self, *, timeout_seconds: float = 1.0) -> None:
        """Waits for the connections' threads: what they still tell a loop, it hears before it closes.

        For those of connections that somebody still has it waits in vain, and not longer than this.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for thread in list(self._threads):
                    await _wait_ended(thread)

    def _configure(self, connection: Any, _record: Any) -> None:
        thread = getattr(getattr(connection, "driver_connection", None), "_thread", None)
        if thread is not None:
            self._threads.add(thread)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(SQLITE_BUSY_SECONDS * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")  # readers and the writer do not wait for one another
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()


def _end(connection: Any, _record: Any, _error: BaseException | None) -> None:
    """Ends what a cancelled caller leaves behind amid a statement, in the driver's own thread."""
    driver = getattr(connection, "driver_connection", connection)
    queue = getattr(driver, "_tx", None)  # of aiosqlite's thread; SQLAlchemy, too, puts things there
    if queue is None:
        driver.end()
    elif driver._connection is not None:
        sqlite, driver._connection = driver._connection, None
        sqlite.interrupt()
        for work in (sqlite.end, driver.stop):
            queue.put_nowait(
                (None, work)
            )  # nobody is told of its end: in that thread `stop` finds no loop to tell
        # What SQLAlchemy calls next. aiosqlite's, cancelled in its turn, would wait for ever for a thread that has ended.
        driver.close = partial(_wait_ended, driver._thread)


async def _wait_ended(thread: threading.Thread) -> None:
    while thread.is_alive():  # noqa: ASYNC110 - nothing tells the end of a thread
        await asyncio.sleep(0.001)


def _begin_before_savepoint(connection: Connection, _name: str | None) -> None:
    """Python's driver begins before a write and not before a SAVEPOINT, whose RELEASE would then be a commit.

    IMMEDIATE: what has read inside a transaction before it asks for the lock is refused at once where another wrote
    since, however long it would have waited.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
