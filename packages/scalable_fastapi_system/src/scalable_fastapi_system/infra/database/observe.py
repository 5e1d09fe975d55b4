"""What the database is asked: statements counted, slow ones logged with their text but never their values."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import structlog
from sqlalchemy import Engine

_log = structlog.get_logger("database")

MAX_LOGGED_STATEMENT_CHARACTERS = 2000


class StatementCount:
    """How many statements ran in a context; see `count_statements`."""

    __slots__ = ("statements",)

    def __init__(self) -> None:
        self.statements: list[str] = []

    @property
    def total(self) -> int:
        return len(self.statements)


counted: ContextVar[StatementCount | None] = ContextVar("counted_statements", default=None)


def note_statement(statement: str, seconds: float, slow_seconds: float) -> None:
    """Records one finished statement. Every path to the database calls this, SQLAlchemy's or a driver's own."""
    count = counted.get()
    if count is not None:
        count.statements.append(statement)
    if seconds >= slow_seconds:
        _log.warning(
            "slow query",
            statement=statement[:MAX_LOGGED_STATEMENT_CHARACTERS],
            duration_seconds=round(seconds, 3),
        )


def watch_statements(engine: Engine, *, slow_seconds: float) -> None:
    """Counts and times every statement of an engine, those that fail too.

    At the dialect and not by SQLAlchemy's events: an engine with listeners makes every connection join them anew,
    which costs a transaction of one statement a tenth of its time.
    """
    dialect: Any = engine.dialect

    def watched(execute: Callable[..., None]) -> Callable[..., None]:
        def run(cursor: Any, statement: str, *arguments: Any, **named: Any) -> None:
            started = time.perf_counter()
            try:
                execute(cursor, statement, *arguments, **named)
            finally:
                note_statement(statement, time.perf_counter() - started, slow_seconds)

        return run

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, watched(getattr(dialect, name)))
