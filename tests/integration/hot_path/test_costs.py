"""What a request costs, counted and not timed: whoever adds a statement or a round trip to one sees it here.

The counts are exact. A number that falls is to be written down here too; one that rises needs a reason. Where the
time goes is in docs/performance.md.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.only_on("postgres", reason="counts what goes over PostgreSQL's wire")

Counted = dict[str, dict[str, Any]]

# Statements by their first word, round trips to PostgreSQL, round trips to Redis.
COSTS = {
    "users/me": ([], 0, 0),
    "read": (["SELECT"], 1, 0),
    "list": (["SELECT"], 1, 0),
    "cached read": ([], 0, 0),
    "cached by another process": ([], 0, 1),
    # One statement is its own transaction: the commit is in it.
    "create": (["INSERT"], 1, 0),
    "create in a session": (["BEGIN", "INSERT", "COMMIT"], 3, 0),
    "enqueue": (["INSERT"], 1, 1),
    "enqueue in a session": (["BEGIN", "INSERT", "COMMIT"], 3, 1),
    "start a task": (["BEGIN", "INSERT", "COMMIT"], 3, 1),
}

# Calls of Python functions, about a third above what there were when this was written: small changes and other
# versions of Python pass, a layer around everything does not.
MOST_CALLS = {
    "users/me": 270,
    "read": 680,
    "list": 900,
    "cached read": 440,
    "create": 720,
    "enqueue": 1200,
}


@pytest.mark.parametrize("work", COSTS)
def test_statements_and_round_trips(counted: Counted, work: str) -> None:
    cost = counted[work]
    words = [statement.split()[0].rstrip(";").upper() for statement in cost["statements"]]
    assert (words, cost["postgres_round_trips"], cost["redis_round_trips"]) == COSTS[work], cost


def test_enqueueing_costs_one_round_trip_more_than_any_other_change(counted: Counted) -> None:
    for suffix in ("", " in a session"):
        plain, enqueue = counted[f"create{suffix}"], counted[f"enqueue{suffix}"]
        assert enqueue["postgres_round_trips"] == plain["postgres_round_trips"]
        assert enqueue["redis_round_trips"] == plain["redis_round_trips"] + 1


def test_a_token_not_seen_before_costs_one_query(counted: Counted) -> None:
    # The process has just started: what it says by itself while it opens its pools is passed over.
    asked = [text for text in counted["token not seen before"]["statements"] if "FROM users" in text]
    assert len(asked) == 1


@pytest.mark.parametrize("work", MOST_CALLS)
def test_function_calls(counted: Counted, work: str) -> None:
    assert 0 < counted[work]["calls"] <= MOST_CALLS[work]
