"""The SQL store: engines, sessions, transactions, column types, migrations.

What callers may rely on: `transaction()` commits before it returns, so an answer built after it is true;
a store that cannot be reached raises `ServiceUnavailableException`; a restart of the server is survived
because broken connections are replaced before use.
"""

from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime, metadata
from scalable_fastapi_system.infra.database.bulk import bulk_insert
from scalable_fastapi_system.infra.database.direct import Read, Row, Write
from scalable_fastapi_system.infra.database.manager import DatabaseManager, on_commit

__all__ = [
    "DatabaseManager",
    "JSONColumn",
    "Read",
    "Row",
    "UTCDateTime",
    "Write",
    "bulk_insert",
    "metadata",
    "on_commit",
]
