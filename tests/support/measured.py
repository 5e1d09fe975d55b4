"""What a process of its own needs to be measured by `make coverage`, where a test gives it an environment without ours."""

from __future__ import annotations

import os

# Coverage's own, which it sets for the processes that a measured one starts.
_VARIABLE = "COVERAGE_PROCESS_CONFIG"


def measured() -> dict[str, str]:
    """The variable by which coverage follows; empty where nothing is measured."""
    return {_VARIABLE: os.environ[_VARIABLE]} if _VARIABLE in os.environ else {}
