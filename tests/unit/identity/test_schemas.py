"""Row 22: unknown members are refused; what is wrong is said without repeating the password."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from scalable_fastapi_system.identity import schemas, schemas_api_keys
from scalable_fastapi_system.identity.principal import grantable_scopes
from scalable_fastapi_system.identity.routes.admin import AccessChange
from scalable_fastapi_system.identity.schemas import Credentials, CredentialsForm, UserCreate, UserUpdate

GOOD = {"username": "testuser", "email": "test@example.com", "password": "testpassword123"}


def test_registration_of_the_guide_is_accepted() -> None:
    assert UserCreate(**GOOD).dict() == GOOD


@pytest.mark.parametrize(
    ("member", "value", "problem"),
    [
        ("username", "ab", "at least 3 characters"),
        ("username", "a" * 51, "at most 50 characters"),
        ("username", "user name", "letters, numbers, and underscores"),
        ("username", "user\n", "letters, numbers, and underscores"),
        ("username", "ünder", "letters, numbers, and underscores"),
        ("username", "a@b", "letters, numbers, and underscores"),
        ("email", "nobody", "valid email"),
        ("email", "a" * 250 + "@example.com", "email"),
        ("password", "short", "at least 8"),
        ("password", "Password1", "most common"),
        ("password", "Testuser1", "your name"),
    ],
)
def test_bad_member_of_a_registration_is_refused(member: str, value: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        UserCreate(**{**GOOD, member: value})


def test_address_is_kept_in_lower_case() -> None:
    assert UserCreate(**{**GOOD, "email": "Test@Example.COM"}).email == "test@example.com"


@pytest.mark.parametrize("injected", ["is_admin", "role", "is_active", "id", "hashed_password", "scopes"])
@pytest.mark.parametrize(("schema", "good"), [(UserCreate, GOOD), (UserUpdate, {"email": "a@example.com"})])
def test_unknown_member_is_refused(schema: type[BaseModel], good: dict[str, str], injected: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        schema(**{**good, injected: True})


def test_every_input_of_identity_refuses_unknown_members() -> None:
    modules = (schemas, schemas_api_keys)
    models: list[Any] = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    ]
    inputs = [model for model in [*models, AccessChange] if not model.__name__.endswith(("Out", "TokenPair"))]
    assert len(inputs) >= 12
    assert {model.__name__ for model in inputs if model.model_config.get("extra") != "forbid"} == set()


def test_update_with_nothing_changes_nothing_and_null_is_refused() -> None:
    assert UserUpdate().dict(exclude_unset=True) == {}
    with pytest.raises(ValidationError, match="cannot be removed"):
        UserUpdate(email=None)


def test_neither_errors_nor_repr_show_a_password() -> None:
    canary = "Canary-Passw"
    with pytest.raises(ValidationError) as refused:
        UserCreate(**{**GOOD, "password": canary, "more": 1})
    assert canary not in str(refused.value)
    shown = [
        repr(UserCreate(**{**GOOD, "password": "a canary password"})),
        repr(Credentials(username="ada", password="a canary password")),
        repr(CredentialsForm(username="ada", password="a canary password", client_secret="canary")),
        repr(schemas.PasswordChange(current_password="canary", new_password="a canary password")),
        repr(schemas.PasswordReset(token="canary", new_password="a canary password")),
        repr(schemas.RefreshRequest(refresh_token="canary")),
    ]
    assert not [text for text in shown if "canary" in text]


def test_form_takes_the_members_of_an_oauth_password_grant() -> None:
    form = CredentialsForm.model_validate(
        {"grant_type": "password", "username": "ada", "password": "x", "scope": "", "client_id": "docs"}
    )
    assert form.username == "ada"
    with pytest.raises(ValidationError):
        CredentialsForm.model_validate({"grant_type": "implicit", "username": "ada", "password": "x"})


def test_lone_surrogate_is_refused_and_not_an_error() -> None:
    with pytest.raises(ValidationError):
        UserCreate.model_validate({**GOOD, "password": "longenough\ud800password"})


@pytest.mark.parametrize("number", [True, False, "5", 1.5, 0, 4000])
def test_number_that_json_or_the_bounds_refuse_is_refused(number: Any) -> None:
    with pytest.raises(ValidationError):
        schemas_api_keys.ApiKeyCreate(name="ci", scopes=["*"], expires_in_days=number)


def test_number_is_a_whole_one_however_json_writes_it() -> None:
    for number in (5, 5.0):
        key = schemas_api_keys.ApiKeyCreate(name="ci", scopes=["*"], expires_in_days=number)
        assert key.expires_in_days == 5


def test_every_scope_that_openapi_lists_can_be_given_to_a_key_and_no_other() -> None:
    listed = grantable_scopes()
    assert schemas_api_keys.ApiKeyCreate(name="ci", scopes=listed).scopes == listed
    assert {"*", "profile:*", "profile:read"} <= set(listed)
    assert "account:manage" not in listed
