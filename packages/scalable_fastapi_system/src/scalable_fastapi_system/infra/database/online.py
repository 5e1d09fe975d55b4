"""Which steps of a revision would stop a running service: a lint of what it does on PostgreSQL.

Each revision's `upgrade` is rendered to SQL without a database. A step counts as unsafe where it holds a lock for as long
as a table is large, or takes away what the release that still runs is using. Tables that the same revision makes are
nobody's yet, so anything goes there.

A revision that must do such a thing all the same says why, in a mapping `accepted_risks` from the rule's name to the
reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

_NAME = r'(?:IF (?:NOT )?EXISTS )?(?:ONLY )?(?:"?\w+"?\.)?"?(?P<table>\w+)"?'
_CREATE_TABLE = re.compile(rf"CREATE (?:UNLOGGED )?TABLE {_NAME}", re.IGNORECASE)
_ALTER_TABLE = re.compile(rf"ALTER TABLE {_NAME} (?P<action>.*)", re.IGNORECASE | re.DOTALL)
_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX (?P<online>CONCURRENTLY )?(?:IF NOT EXISTS )?\S+ ON {_NAME}", re.IGNORECASE
)
_DROP_INDEX = re.compile(r"DROP INDEX (?P<online>CONCURRENTLY )?", re.IGNORECASE)
_DROP_TABLE = re.compile(rf"DROP TABLE {_NAME}", re.IGNORECASE)
_REWRITE = re.compile(rf"(?:UPDATE|DELETE FROM) {_NAME}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One unsafe step: which revision, which rule, the statement, and what to do in its place."""

    revision: str
    rule: str
    statement: str
    advice: str

    def __str__(self) -> str:
        return f"{self.revision}: {self.rule}: {self.statement}\n    {self.advice}"


# rule, the action of an ALTER TABLE that breaks it, what to do in its place
_ALTERATIONS: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    (
        "column-not-null-without-default",
        lambda action: action.startswith("ADD COLUMN")
        and "NOT NULL" in action
        and "DEFAULT" not in action,
        "Fails on a table with rows, and the running release does not fill it. Give it a server_default.",
    ),
    (
        "column-default-volatile",
        lambda action: action.startswith("ADD COLUMN")
        and re.search(r"DEFAULT .*(RANDOM|UUID|CLOCK_TIMESTAMP|NEXTVAL)", action) is not None,
        "Writes every row under an exclusive lock. Add the column without it, fill it in batches, then set the default.",
    ),
    (
        "set-not-null",
        lambda action: "SET NOT NULL" in action,
        "Reads the whole table under an exclusive lock. CHECK (… IS NOT NULL) NOT VALID, validated in the next revision.",
    ),
    (
        "column-type",
        lambda action: re.match(r"ALTER (COLUMN )?\S+ (SET DATA )?TYPE", action) is not None,
        "May write the whole table under an exclusive lock. Add a new column, fill it in batches, change the code over.",
    ),
    (
        "constraint-not-valid",
        lambda action: action.startswith("ADD")
        and re.search(r"FOREIGN KEY|CHECK \(|CHECK\(", action) is not None
        and not action.startswith("ADD COLUMN")
        and "NOT VALID" not in action,
        "Reads the whole table with writes locked out. Add it NOT VALID, and VALIDATE CONSTRAINT in the next revision.",
    ),
    (
        "unique-without-index",
        lambda action: action.startswith("ADD")
        and re.search(r"UNIQUE|PRIMARY KEY", action) is not None
        and not action.startswith("ADD COLUMN")
        and "USING INDEX" not in action,
        "Builds an index under an exclusive lock. Create the unique index CONCURRENTLY, then ADD CONSTRAINT … USING INDEX.",
    ),
    (
        "drop-column",
        lambda action: action.startswith("DROP COLUMN"),
        "The release that still runs reads it. Take it out of the code, release, and drop it in the release after.",
    ),
    (
        "rename",
        lambda action: action.startswith("RENAME"),
        "The release that still runs knows the old name. Add the new one beside it and move over in two releases.",
    ),
)  # fmt: skip
_INDEX_ADVICE = (
    "Locks out writes while it is built. Use postgresql_concurrently=True within "
    "`with op.get_context().autocommit_block():`, in a revision of its own."
)


def check_revision(script: Script) -> list[Finding]:
    """The unsafe steps of one revision that it does not account for."""
    accepted = getattr(script.module, "accepted_risks", {})
    findings = _check(script.revision, _statements(script))
    unknown = set(accepted) - {finding.rule for finding in findings}
    if unknown:
        raise ValueError(
            f"{script.revision} accepts a risk that it does not take: {', '.join(sorted(unknown))}"
        )
    return [finding for finding in findings if finding.rule not in accepted]


def _statements(script: Script) -> list[str]:
    """What the upgrade runs on PostgreSQL, one line each; COMMIT where it leaves its transaction."""
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "transaction_per_migration": True}
    )
    impl: Any = context.impl
    statements: list[str] = []
    impl.static_output = lambda text: statements.append(" ".join(text.split()).rstrip("; "))
    with Operations.context(context), context.begin_transaction(_per_migration=True):
        script.module.upgrade()
    return [statement for statement in statements if statement]


def _check(revision: str, statements: Iterable[str]) -> list[Finding]:
    findings: list[Finding] = []
    new_tables: set[str] = set()
    is_in_transaction = True

    def find(rule: str, statement: str, advice: str) -> None:
        findings.append(Finding(revision, rule, statement, advice))

    for statement in statements:
        if statement in {"BEGIN", "COMMIT"}:
            is_in_transaction = statement == "BEGIN"
        elif found := _CREATE_TABLE.match(statement):
            new_tables.add(found["table"])
        elif found := _INDEX.match(statement):
            _check_index(found, statement, new_tables, is_in_transaction, find)
        elif found := _DROP_INDEX.match(statement):
            if not found["online"]:
                find("index-not-concurrently", statement, _INDEX_ADVICE)
        elif (found := _ALTER_TABLE.match(statement)) and found["table"] not in new_tables:
            action = found["action"].upper()
            for rule, breaks, advice in _ALTERATIONS:
                if breaks(action):
                    find(rule, statement, advice)
        elif found := _DROP_TABLE.match(statement):
            find(
                "drop-table", statement, "The release that still runs uses it. Drop it in the release after."
            )
        elif (found := _REWRITE.match(statement)) and found["table"] not in new_tables:
            find(
                "rows-in-one-transaction",
                statement,
                "Locks every row that it changes until the revision ends. Change them in batches, from a job or a command.",
            )
    return findings


def _check_index(
    found: re.Match[str],
    statement: str,
    new_tables: set[str],
    is_in_transaction: bool,
    find: Callable[[str, str, str], None],
) -> None:
    if found["online"] and is_in_transaction:
        find(
            "concurrently-in-transaction",
            statement,
            "PostgreSQL refuses this within a transaction: put it into `with op.get_context().autocommit_block():`.",
        )
    elif not found["online"] and found["table"] not in new_tables:
        find("index-not-concurrently", statement, _INDEX_ADVICE)
