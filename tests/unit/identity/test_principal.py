"""Roles and scopes: what a caller may do, and that nothing named is nothing for a limited key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from scalable_fastapi_system.identity.principal import (
    Principal,
    declare_scopes,
    is_grantable,
    known_scopes,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def principal(**values: Any) -> Principal:
    return Principal(
        **{
            "id": 7,
            "username": "ada",
            "email": "ada@example.com",
            "role": "user",
            "is_active": True,
            "created_at": NOW,
            "updated_at": NOW,
            **values,
        }
    )


def key(*scopes: str, role: str = "user") -> Principal:
    return principal(kind="api_key", api_key_id=uuid4(), scopes=frozenset(scopes), role=role)


@pytest.mark.parametrize(
    ("caller", "needed", "may"),
    [
        (principal(), (), True),
        (principal(), ("things:read",), True),
        (principal(), ("account:manage",), True),
        (principal(), ("admin:users",), False),
        (principal(role="admin"), ("admin:users",), True),
        (principal(scopes=frozenset({"profile:read"})), ("things:read",), False),
        (principal(scopes=frozenset({"profile:read"})), (), False),
        (key("things:read"), ("things:read",), True),
        (key("things:read"), ("things:write",), False),
        (key("things:read"), ("things:read", "things:write"), False),
        (key("things:*"), ("things:read", "things:write"), True),
        (key("things:*"), ("thingsandmore:read",), False),
        (key("things:read"), (), False),
        (key("*"), (), True),
        (key("*"), ("things:read",), True),
        (key("*"), ("account:manage",), False),
        (key("*"), ("admin:users",), False),
        (key("*", role="admin"), ("admin:users",), True),
        (key("things:*", role="admin"), ("admin:users",), False),
    ],
)
def test_caller_may_do_what_role_and_scopes_allow(
    caller: Principal, needed: tuple[str, ...], may: bool
) -> None:
    assert caller.allows(needed) is may


def test_limited_key_of_an_administrator_is_no_administrator() -> None:
    assert principal(role="admin").is_admin
    assert not key("things:read", role="admin").is_admin
    assert not principal().is_admin


def test_key_is_counted_apart_from_its_user() -> None:
    assert principal().key == "user:7"
    caller = key("things:read")
    assert caller.key == f"api_key:{caller.api_key_id}"


def test_scope_that_is_not_known_cannot_be_given_to_a_key() -> None:
    declare_scopes({"widgets:read": "Read widgets"})
    assert "widgets:read" in known_scopes()
    assert is_grantable("widgets:read")
    assert is_grantable("widgets:*")
    assert is_grantable("*")
    for scope in (
        "widgets:write",
        "gadgets:*",
        "account:manage",
        "account:*",
        "",
        "widgets",
        "Widgets:read",
        "a:b:c",
    ):
        assert not is_grantable(scope)


@pytest.mark.parametrize("name", ["", "things", "things:*", "*", "Things:read", "x" * 60 + ":read"])
def test_name_that_is_no_scope_cannot_be_declared(name: str) -> None:
    with pytest.raises(ValueError, match="not a scope"):
        declare_scopes({name: "something"})


def test_what_a_caller_sees_of_themselves_holds_no_secret() -> None:
    assert set(principal().dict()) == {
        "id", "username", "email", "role", "is_active", "is_admin", "created_at", "updated_at",
    }  # fmt: skip
