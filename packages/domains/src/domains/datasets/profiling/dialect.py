"""What parts the cells of a table, and the names of its columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from domains.datasets.profiling.errors import UnreadableTableError
from domains.datasets.profiling.limits import MAX_COLUMNS, MAX_LINE_BYTES, MAX_NAME_LENGTH
from domains.datasets.profiling.text import Text

# In the order of preference where two would do equally well.
DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_CHARACTERS = MAX_LINE_BYTES  # the longest line fits, so the first one is whole
_SAMPLE_RECORDS = 200
_BLANK_LINES = re.compile("(?: *(?:\r\n|\r|\n))*")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the table is written. Without a header its columns are named `column_1` and so on.

    skip: the blank lines before it. DuckDB would take the first for the header.
    """

    delimiter: str
    has_header: bool
    names: tuple[str, ...]
    skip: int


def detect(text: Text) -> Dialect:
    """The dialect by the file's beginning. Raises UnreadableTableError where the first line cannot be the names."""
    with text.path.open(encoding="utf-8-sig", newline="") as file:
        sample = file.read(_SAMPLE_CHARACTERS)
        is_cut = bool(file.read(1))
    table = _BLANK_LINES.sub("", sample, count=1)
    skip = sample.count(text.newline) - table.count(text.newline)
    best: tuple[float, int] = (-1.0, 0)
    found: tuple[str, list[str]] | None = None
    for delimiter in DELIMITERS:
        records = _records(table, delimiter, is_cut=is_cut)
        if not records:
            continue
        width = len(records[0])
        agreement = sum(len(record) == width for record in records) / len(records)
        score = (agreement, width) if width > 1 else (0.0, 0)
        if score > best:
            best, found = score, (delimiter, records[0])
    if found is None:
        raise UnreadableTableError(
            "The first line cannot be read: a quoted value in it does not end, or is too long."
        )
    delimiter, first = found
    has_header = not all(_NUMBER.fullmatch(cell) for cell in first)
    return Dialect(delimiter, has_header, _names(first if has_header else [""] * len(first)), skip)


def _records(sample: str, delimiter: str, *, is_cut: bool) -> list[list[str]]:
    records: list[list[str]] = []
    # Lines end where DuckDB ends them: `splitlines` would cut at U+2028 and form feeds, too.
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    try:
        for record in reader:
            if record:  # the reader gives [] for a blank line
                records.append(record)
            if len(records) > _SAMPLE_RECORDS:
                return records
    except csv.Error:
        return records
    # The last one may be half a record.
    return records[:-1] if is_cut else records


def _names(cells: Sequence[str]) -> tuple[str, ...]:
    if len(cells) > MAX_COLUMNS:
        raise UnreadableTableError(
            f"The table has {len(cells)} columns; up to {MAX_COLUMNS} can be profiled."
        )
    names: list[str] = []
    taken: set[str] = set()
    for number, cell in enumerate(cells, start=1):
        name = " ".join(cell.split()) or f"column_{number}"
        if len(name) > MAX_NAME_LENGTH:
            raise UnreadableTableError(
                f"The name of column {number} is longer than {MAX_NAME_LENGTH} characters. "
                "The first line must hold the names of the columns."
            )
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        names.append(unique)
    return tuple(names)
