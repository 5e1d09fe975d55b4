"""What the endpoints of datasets give."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

DatasetStatusName = Literal["queued", "profiling", "ready", "failed", "cancelled"]
ColumnType = Literal["boolean", "integer", "number", "date", "timestamp", "text", "empty"]


class TopValue(BaseModel):
    """A frequent value. Text over 100 characters is cut and ends in an ellipsis; an integer beyond 64 bits is text."""

    value: Any
    count: int


class ColumnProfile(BaseModel):
    """One column. Members that make no sense for its type are left out."""

    name: str
    type: ColumnType = Field(description="What every value is; `empty` where there is none.")
    missing: int = Field(description="Rows without a value.")
    distinct: int = Field(description="Different values.")
    top_values: list[TopValue] = Field(
        description="The ten most frequent. Of many, only those there more than once."
    )
    min: Any = None
    max: Any = None
    mean: float | None = None
    std: float | None = Field(None, description="Standard deviation of a sample (n-1).")
    quantiles: dict[str, float] | None = Field(None, description="p05, p25, p50, p75 and p95.")
    has_exact_quantiles: bool | None = Field(
        None, description="False for large tables, where they are estimates."
    )
    min_length: int | None = None
    max_length: int | None = None
    mean_length: float | None = None


class DatasetProfile(BaseModel):
    """What is in the table."""

    rows: int
    column_count: int
    size_bytes: int
    encoding: str
    delimiter: str
    has_header: bool = Field(
        description="False where the first line is all numbers: then columns have made-up names."
    )
    columns: list[ColumnProfile]


class DatasetSummary(BaseModel):
    """A dataset in a list."""

    id: UUID
    task_id: UUID = Field(description="The profiling job, see /tasks/{task_id}.")
    name: str
    status: DatasetStatusName
    error: str | None = Field(description="Why there is no profile, once the status is failed.")
    size_bytes: int
    sha256: str
    row_count: int | None
    column_count: int | None
    created_at: datetime
    profiled_at: datetime | None


class DatasetOut(DatasetSummary):
    """A dataset with its profile, which is there once the status is ready."""

    profile: DatasetProfile | None


class DatasetPage(BaseModel):
    """Datasets from the newest on, and the cursor of the next page."""

    items: list[DatasetSummary]
    next_cursor: str | None


class DatasetAccepted(BaseModel):
    """A dataset that is stored and waits for its profile."""

    id: UUID
    task_id: UUID
    name: str
    status: Literal["queued"] = "queued"
    size_bytes: int
    sha256: str
