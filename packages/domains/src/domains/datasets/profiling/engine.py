"""DuckDB, shut in: it sees one folder, loads no extension, and its settings cannot be changed any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from domains.datasets.profiling.dialect import Dialect
from domains.datasets.profiling.errors import UnreadableTableError
from domains.datasets.profiling.limits import (
    MAX_COLUMNS_IN_LARGE_BLOCKS,
    MAX_COLUMNS_OF_TWO_THREADS,
    MAX_LINE_BYTES,
    MEMORY_LIMIT_BYTES,
    MIB,
    READ_BUFFER_BYTES,
    SPILL_LIMIT_BYTES,
    THREADS,
)
from domains.datasets.profiling.text import Text

# The kinds of error that DuckDB tells, in words for the owner of the file.
_FAULTS = {
    "MISSING COLUMNS": "it has fewer cells than the first line ({columns})",
    "TOO MANY COLUMNS": "it has more cells than the first line ({columns})",
    "UNQUOTED VALUE": "a quoted value in it does not end where its cell ends",
    "LINE SIZE OVER MAXIMUM": f"it is longer than {MAX_LINE_BYTES} bytes",
    "INVALID ENCODING": "it is not valid UTF-8",
    "INVALID STATE": "its quotes cannot be made out",
}


def connect(folder: Path, *, columns: int) -> duckdb.DuckDBPyConnection:
    """A connection to a new database in this folder, which is all of the machine that it can reach.

    columns: of the table to come. Blocks are per column and buffers per column and thread, so a wide table gets
        small blocks and a very wide one a single thread.
    """
    spill = folder / "spill"
    spill.mkdir()
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{MEMORY_LIMIT_BYTES}B",
            "threads": THREADS if columns <= MAX_COLUMNS_OF_TWO_THREADS else 1,
            "temp_directory": str(spill),
            "max_temp_directory_size": f"{SPILL_LIMIT_BYTES}B",
            "preserve_insertion_order": False,  # needs less memory, and no figure depends on the order
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
        },
    )
    shape = "(BLOCK_SIZE 16384, ROW_GROUP_SIZE 8192)" if columns > MAX_COLUMNS_IN_LARGE_BLOCKS else ""
    connection.execute(f"ATTACH {quoted(str(folder / 'table.duckdb'))} AS upload {shape}")
    connection.execute("USE upload")
    connection.execute(
        "SET enable_progress_bar = true"
    )  # for query_progress: without a terminal nothing is printed
    connection.execute("SET enable_progress_bar_print = false")
    connection.execute(f"SET allowed_directories = [{quoted(f'{folder}/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def load(connection: duckdb.DuckDBPyConnection, text: Text, dialect: Dialect) -> int:
    """Reads the file into the table `cells`, every column text named c0, c1 …; gives the number of rows.

    Raises UnreadableTableError with the first line that does not fit.
    """
    columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(dialect.names)))
    options: dict[str, str] = {
        "auto_detect": "false",
        "delim": quoted(dialect.delimiter),
        "quote": quoted('"'),
        "escape": quoted('"'),
        "new_line": quoted(text.newline.replace("\r", "\\r").replace("\n", "\\n")),
        "skip": str(dialect.skip),
        "header": str(dialect.has_header).lower(),
        "columns": f"{{{columns}}}",
        "max_line_size": str(MAX_LINE_BYTES),
        "buffer_size": str(READ_BUFFER_BYTES),
        "store_rejects": "true",
        "rejects_limit": "1",
    }
    settings = ", ".join(f"{name} = {value}" for name, value in options.items())
    try:
        connection.execute(f"CREATE TABLE cells AS FROM read_csv(?, {settings})", [str(text.path)])
    except duckdb.InvalidInputException:
        raise UnreadableTableError(
            "The table cannot be made out: its quotes or its line ends do not follow the rules of CSV (RFC 4180)."
        ) from None
    fault = connection.execute(
        "SELECT line_byte_position, error_type::VARCHAR FROM reject_errors ORDER BY line_byte_position LIMIT 1"
    ).fetchone()
    if fault is not None:
        position, kind = fault
        reason = _FAULTS.get(kind, "it cannot be read").format(columns=len(dialect.names))
        raise UnreadableTableError(f"Line {_line_at(text, position - 1)} does not fit the table: {reason}.")
    rows: Any = connection.execute("SELECT count(*) FROM cells").fetchone()
    return int(rows[0])


def _line_at(text: Text, offset: int) -> int:
    """The number of the line that begins there, as an editor shows it: DuckDB counts rows, which may be several lines."""
    newline = text.newline.encode()
    lines, left, tail = 1, offset, b""
    with text.path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, MIB))):
            left -= len(block)
            block = tail + block
            lines += block.count(newline)
            tail = block[-1:] if len(newline) == 2 and block.endswith(newline[:1]) else b""
    return lines


def quoted(text: str) -> str:
    """The text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
