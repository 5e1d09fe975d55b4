"""What clients send and get about users and sign-in. Unknown members are refused, so nothing can be smuggled in."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, field_validator, model_validator

from scalable_fastapi_system.identity.models import MAX_EMAIL_LENGTH, MAX_USERNAME_LENGTH
from scalable_fastapi_system.identity.password_policy import MAX_LENGTH, MIN_LENGTH, password_problem

_USERNAME = re.compile(r"[a-zA-Z0-9_]+")
_MIN_USERNAME_LENGTH = 3
# What OpenAPI can say of the rules below, so that a client finds out before the server does.
_USERNAME_SCHEMA: dict[str, Any] = {
    "minLength": _MIN_USERNAME_LENGTH,
    "maxLength": MAX_USERNAME_LENGTH,
    "pattern": "^[a-zA-Z0-9_]+$",
}
_PASSWORD_SCHEMA: dict[str, Any] = {
    "format": "password",
    "minLength": MIN_LENGTH,
    "maxLength": MAX_LENGTH,
    "pattern": r"^(?=[\s\S]*[A-Z])(?=[\s\S]*[a-z])(?=[\s\S]*[0-9])[\s\S]{8,}$|^[\s\S]{12,}$",
}


def _without_null(schema: dict[str, Any]) -> None:
    """Takes null out of a member's schema: what is left out is None in the code, and no client may send it."""
    (schema_of_value,) = (part for part in schema.pop("anyOf") if part != {"type": "null"})
    schema.update(schema_of_value)
    schema.pop("default", None)


class _Input(BaseModel):
    # hide_input_in_errors: what was wrong may be a password, and errors reach logs
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    def dict(self, **options: Any) -> dict[str, Any]:
        """The members as plain values: `model_dump` by the guide's name."""
        return self.model_dump(**options)


def _short_enough(email: str) -> str:
    if len(email) > MAX_EMAIL_LENGTH:
        raise ValueError(f"Email must be at most {MAX_EMAIL_LENGTH} characters")
    return email.lower()


def _is_text(value: str) -> str:
    # JSON can say "\\ud800", half a character: nothing can be done with it, and no store takes it.
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("This is not text: it holds half a character")
    return value


def _has_no_zero(value: str) -> str:
    if "\0" in value:
        raise ValueError("This is not text: it holds a zero byte")
    return value


Text = Annotated[str, AfterValidator(_is_text)]
Email = Annotated[EmailStr, AfterValidator(_short_enough)]


class UserCreate(_Input):
    """A registration."""

    username: str = Field(
        description="3 to 50 letters, digits and underscores; unique whatever the case.",
        json_schema_extra=_USERNAME_SCHEMA,
    )
    email: Email = Field(description="Unique whatever the case.")
    password: Text = Field(
        description="At least 12 characters, or at least 8 with an upper-case letter, a lower-case letter and a digit.",
        json_schema_extra=_PASSWORD_SCHEMA,
        repr=False,
    )

    @field_validator("username")
    @classmethod
    def _validate_username(cls, name: str) -> str:
        if len(name) < _MIN_USERNAME_LENGTH:
            raise ValueError(f"Username must be at least {_MIN_USERNAME_LENGTH} characters")
        if len(name) > MAX_USERNAME_LENGTH:
            raise ValueError(f"Username must be at most {MAX_USERNAME_LENGTH} characters")
        if _USERNAME.fullmatch(name) is None:
            raise ValueError("Username can only contain letters, numbers, and underscores")
        return name

    @field_validator("password")
    @classmethod
    def _validate_password(cls, password: str) -> str:
        problem = password_problem(password)
        if problem is not None:
            raise ValueError(problem)
        return password

    @model_validator(mode="after")
    def _not_the_own_name(self) -> Self:
        problem = password_problem(self.password, own_words=(self.username, self.email))
        if problem is not None:
            raise ValueError(problem)
        return self


class UserUpdate(_Input):
    """What users may change about themselves. Left out: unchanged."""

    email: Email | None = Field(None, description="The new address.", json_schema_extra=_without_null)

    @field_validator("email")
    @classmethod
    def _not_nothing(cls, email: str | None) -> str:
        if email is None:
            raise ValueError("Email cannot be removed")
        return email


class UserOut(BaseModel):
    """A user as they see themselves."""

    id: int
    username: str
    email: str
    role: str
    is_active: bool
    is_admin: bool
    created_at: datetime
    updated_at: datetime


class Credentials(_Input):
    """A sign-in. The rules of registration do not apply: what is wrong is answered as wrong, not as invalid."""

    username: Annotated[Text, AfterValidator(_has_no_zero)] = Field(
        min_length=1,
        max_length=MAX_EMAIL_LENGTH,
        description="Or the email address.",
        json_schema_extra={"pattern": r"^[^\u0000]*$"},
    )
    password: Text = Field(
        min_length=1, max_length=4096, repr=False, json_schema_extra={"format": "password"}
    )


class CredentialsForm(Credentials):
    """A sign-in as OAuth 2 password forms send it; the further members are theirs and are not used."""

    grant_type: Literal["password"] | None = Field(None, json_schema_extra=_without_null)
    scope: str = ""
    client_id: str | None = Field(None, json_schema_extra=_without_null)
    client_secret: str | None = Field(None, repr=False, json_schema_extra=_without_null)


class TokenPair(BaseModel):
    """What a sign-in gives."""

    access_token: str = Field(description="Send it as `Authorization: Bearer …`.")
    refresh_token: Text = Field(description="Good once, at /auth/refresh, which gives the next one.")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a scheme's name
    expires_in: int = Field(description="Seconds until the access token expires.")
    session_id: UUID = Field(description="This sign-in, as /auth/sessions lists it.")


class RefreshRequest(_Input):
    """The refresh token of the last answer."""

    refresh_token: Text = Field(min_length=1, max_length=8192, repr=False)


class LogoutRequest(_Input):
    """Which sign-ins to end. Nothing given: the one whose access token is sent."""

    refresh_token: str | None = Field(
        None, min_length=1, max_length=8192, repr=False, description="In place of an access token."
    )
    everywhere: bool = Field(
        False,
        strict=True,
        description="End all sign-ins of the user; by a refresh token only while it is good.",
    )


class SessionOut(BaseModel):
    """One sign-in."""

    id: UUID
    method: str = Field(description="`password`, or `oidc` for another provider.")
    ip_address: str | None
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    is_current: bool


class ExternalIdentityOut(BaseModel):
    """A provider through which a user can sign in."""

    id: UUID
    issuer: str
    subject: str = Field(description="What the provider calls the user.")
    created_at: datetime


class AuditEventOut(BaseModel):
    """Something that happened to an account."""

    id: UUID
    at: datetime
    event: str = Field(description="`source:subject:action`.")
    source: str
    subject: str
    action: str
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    detail: dict[str, Any]


class PasswordChange(_Input):
    """The present password and the one to come."""

    current_password: Text = Field(min_length=1, max_length=4096, repr=False)
    new_password: Text = Field(repr=False, json_schema_extra=_PASSWORD_SCHEMA)

    @field_validator("new_password")
    @classmethod
    def _validate_password(cls, password: str) -> str:
        problem = password_problem(password)
        if problem is not None:
            raise ValueError(problem)
        return password


class ForgottenPassword(_Input):
    """Whose password is to be reset."""

    email: Email


class PasswordReset(_Input):
    """The token of the message and the new password."""

    token: Text = Field(min_length=1, max_length=8192, repr=False)
    new_password: Text = Field(repr=False, json_schema_extra=_PASSWORD_SCHEMA)

    @field_validator("new_password")
    @classmethod
    def _validate_password(cls, password: str) -> str:
        problem = password_problem(password)
        if problem is not None:
            raise ValueError(problem)
        return password
