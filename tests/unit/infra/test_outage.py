"""Which errors of a driver mean that the database is away."""

import psycopg
import pytest
from scalable_fastapi_system.infra.database.outage import is_unavailable
from sqlalchemy.exc import OperationalError


@pytest.mark.parametrize(
    ("statement", "said", "expected"),
    [
        (None, "connection failed: Connection refused", True),
        ("INSERT INTO t VALUES (1)", "number of parameters must be between 0 and 65535", False),
    ],
)
def test_what_libpq_says_without_a_state_is_an_outage_only_while_it_connects(statement, said, expected):
    assert is_unavailable(OperationalError(statement, None, psycopg.OperationalError(said))) is expected
