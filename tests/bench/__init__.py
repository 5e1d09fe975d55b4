"""Measures the platform beside its limits: `python -m tests.bench`. See docs/performance.md."""
