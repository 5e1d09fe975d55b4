"""Developer tools: embedded stores, the `make run` launcher and what shares their code with the tests."""
