"""What this domain brings to the platform."""

from __future__ import annotations

from scalable_fastapi_system.kit.domain import Domain

DATASETS = Domain(
    name="datasets",
    models=("domains.datasets.models",),
    routes=("domains.datasets.routes:router",),
    jobs=("domains.datasets.jobs",),
)
