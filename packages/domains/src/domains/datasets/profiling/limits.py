"""What a table may be, and what its profile may cost. Uploads are not to be trusted."""

from __future__ import annotations

MIB = 1024 * 1024

MAX_COLUMNS = 1000
MAX_NAME_LENGTH = 200
# A line, quoted line breaks included. DuckDB needs room for some of them at once, see READ_BUFFER_BYTES.
MAX_LINE_BYTES = 1 * MIB

# DuckDB's own bound; beyond it data goes to the spill folder. What it uses beside it was measured: docs/domains.md.
MEMORY_LIMIT_BYTES = 160 * MIB
SPILL_LIMIT_BYTES = 1024 * MIB
THREADS = 2
MAX_COLUMNS_OF_TWO_THREADS = 300
MAX_COLUMNS_IN_LARGE_BLOCKS = 64
READ_BUFFER_BYTES = 8 * MIB  # per thread

# Up to here distinct values and quantiles are exact; above they are estimates whose memory does not grow.
EXACT_ROWS = 100_000
TOP_VALUES = 10
MAX_SHOWN_CHARACTERS = 100  # of a text value in the profile
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
