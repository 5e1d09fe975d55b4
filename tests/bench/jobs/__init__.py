"""Job queues side by side: `python -m tests.bench.jobs`. See docs/reliability.md."""
