"""How much the platform takes to start and to be there: `python -m tests.bench.footprint`. See docs/performance.md."""
