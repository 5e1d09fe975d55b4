"""What schemathesis has to be told about the API beyond its OpenAPI. Loaded by its command line, not by pytest."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

# Refusals of input that its schema allows, by what the answer says. Each is a rule that no JSON schema can state;
# the tests of its area show that the rule holds. Whatever else is refused is a defect of the API or of its OpenAPI.
_RULES = {
    422: (
        "The cursor is not one that this list gave out",  # it is opaque and signed by its list
        "Password is one of the most common ones",  # a list, and rules for spellings of its words
        "Password must not be your name or address",  # two fields together
        "value is not a valid email address",  # reserved domains and what IDNA refuses
        "Name can only contain printable characters",  # a class of Unicode that patterns lack
        "cannot be stored: the character U+0000",  # deep inside free JSON, which PostgreSQL cannot keep
        "This cannot be kept as it is: Integer exceeds 64-bit range",  # likewise; in a schema it is a number as any other
        "This Idempotency-Key was used for another request",  # it depends on what was sent before
        "This is not text: it holds half a character",  # a lone surrogate
    ),
    400: (
        "Username or email already registered",  # the guide's answer; it depends on who is there
        "This link is not valid any more",  # a token that only a message of ours can hold
    ),
}


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Shows the token as what it is on the wire: `ignored_auth` tries none and a wrong one for `http`, not for `oauth2`."""
    schemes = raw_schema["components"]["securitySchemes"]
    schemes["BearerToken"] = {"type": "http", "scheme": "bearer"}


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """False, which drops the failure, for a refusal by one of the rules above and nothing else."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    body = response.json()
    said = body["errors"] or [body["message"]]
    rules = _RULES.get(response.status_code, ())
    return not all(any(rule in line for rule in rules) for line in said)
