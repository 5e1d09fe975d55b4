"""How the platform's latency and cost grow: `python -m tests.bench.growth`. See docs/performance.md."""
