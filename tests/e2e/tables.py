"""Tables to upload, and what is in them, computed with nothing but the csv module."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from importlib.resources import files
from typing import Any


def real_table(name: str) -> bytes:
    """A public table that ships inside the vega_datasets wheel."""
    return (files("vega_datasets") / "_data" / name).read_bytes()


def made_table(rows: int) -> bytes:
    """A larger table, always the same: an id, a category, a skewed number, a text."""
    text = io.StringIO()
    text.write("id,category,value,note\n")
    for row in range(rows):
        text.write(f"{row},c{row % 7},{(row * 7919 % 100_003) / 7:.4f},note number {row * 31 % 9973}\n")
    return text.getvalue().encode()


def facts(content: bytes) -> dict[str, Any]:
    """Rows, and for each column the values as text and, where all are numbers, their statistics."""
    lines = list(csv.DictReader(io.StringIO(content.decode())))
    columns: dict[str, dict[str, Any]] = {}
    for name in lines[0]:
        values = [line[name] for line in lines if line[name] != ""]
        numbers = as_numbers(values)
        columns[name] = {
            "missing": len(lines) - len(values),
            "distinct": len(set(numbers if numbers is not None else values)),
            "counts": Counter(values),
            "numbers": numbers,
        }
        if numbers:
            columns[name] |= {
                "min": min(numbers),
                "max": max(numbers),
                "mean": math.fsum(numbers) / len(numbers),
                "std": statistics.stdev(numbers),
                "p50": statistics.median(numbers),
            }
    return {"rows": len(lines), "columns": columns}


def as_numbers(values: list[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None
