"""Which errors mean that the database is away, full, no longer the one to write to, or undid what met others' work."""

from __future__ import annotations

from traceback import walk_tb
from typing import Any

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from scalable_fastapi_system.kit.errors import ServiceUnavailableException

# 08 connection, 25006 a primary that became a standby, 53 no resources, 57014 a statement that took too long (it waited
# for a lock, or the server stood still), 57P going down or starting
_SQLSTATES = ("08", "25006", "53", "57014", "57P")
# MySQL and MariaDB: too many connections, going down, a lock not had in time, read only (twice), a statement that took
# too long (MariaDB, MySQL), cannot connect (twice), gone, lost
_MYSQL_CODES = frozenset({1040, 1053, 1205, 1290, 1836, 1969, 3024, 2002, 2003, 2006, 2013})
_TOOK_TOO_LONG_SQLSTATE = "57014"
_MYSQL_TOOK_TOO_LONG = frozenset({1969, 3024})
_MYSQL_READ_ONLY = frozenset({1290, 1836})
# 40001 no serial order, 40P01 a deadlock; for MySQL and MariaDB both are 1213
_UNDONE_SQLSTATES = ("40001", "40P01")
_MYSQL_UNDONE = 1213


class TransactionUndone(ServiceUnavailableException):
    """The database undid the transaction, because it and another one waited for each other. Nothing of it is stored, and
    trying it again will do (503)."""

    def __init__(self) -> None:
        super().__init__("The database put another request before this one; try again", retry_after_seconds=1)


def as_unavailable(error: BaseException) -> ServiceUnavailableException | None:
    """What callers are told of this error; None where the statement was wrong."""
    if is_undone(error):
        return TransactionUndone()
    if is_unavailable(error):
        return ServiceUnavailableException("The database cannot be reached at the moment")
    return None


def is_of_the_session(error: BaseException) -> bool:
    """Whether an error in a session's block was raised by the session, rather than by what else runs in the block.

    A lost connection is a bare OSError where the driver's errors are not wrapped, as is a file that is not there. Read from
    the traceback: work with the database passes through these, `run_sync` with a function of the caller's through neither.
    """
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(module.startswith(("sqlalchemy.engine", "sqlalchemy.pool")) for module in modules)


def is_undone(error: BaseException) -> bool:
    """Whether the database ended the transaction for the sake of another one."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(_cause_of(error), "sqlstate", None)
    return state in _UNDONE_SQLSTATES or _mysql_code(error) == _MYSQL_UNDONE


def is_unavailable(error: BaseException) -> bool:
    """Whether this means that the database is away or full, rather than that the statement was wrong."""
    if isinstance(error, PoolTimeoutError | OSError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = _cause_of(error)
    if isinstance(cause, OSError):
        return True
    state = str(getattr(cause, "sqlstate", None) or "")
    if state.startswith(_SQLSTATES) or _mysql_code(error) in _MYSQL_CODES:
        return True
    if not isinstance(error, OperationalError) or state:
        return False
    # A server's refusal has a state. libpq's own, without one, is of the connection where no statement was sent by it: one that
    # is lost later is invalidated.
    is_connecting = error.statement is None and type(cause).__module__.startswith("psycopg")
    return is_connecting or "locked" in str(cause).lower()


def took_too_long(error: BaseException | None) -> bool:
    """Whether the server ended the statement at its time limit, and so is there. Of asyncpg's own errors, too."""
    return _says(error, _TOOK_TOO_LONG_SQLSTATE, _MYSQL_TOOK_TOO_LONG)


def is_read_only(error: BaseException) -> bool:
    """Whether the server takes no writes: after a failover the pool still holds connections to the old primary."""
    return _says(error, "25006", _MYSQL_READ_ONLY)


def _says(error: BaseException | None, sqlstate: str, mysql_codes: frozenset[int]) -> bool:
    """Whether the server said this, by SQLAlchemy or by asyncpg alone."""
    if isinstance(error, DBAPIError):
        return getattr(_cause_of(error), "sqlstate", None) == sqlstate or _mysql_code(error) in mysql_codes
    return getattr(error, "sqlstate", None) == sqlstate


def _cause_of(error: DBAPIError) -> Any:
    original: Any = error.orig
    return getattr(original, "__cause__", None) or original


def _mysql_code(error: DBAPIError) -> int | None:
    code = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return code if isinstance(code, int) else None
