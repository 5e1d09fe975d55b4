"""What clients send and get about API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from scalable_fastapi_system.identity.principal import is_grantable

_MAX_DAYS = 3650
_MAX_SCOPES = 50
_DAY_SECONDS = 24 * 3600


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("Name can only contain printable characters")
    return name


def _number_of_json(number: Any) -> Any:
    # Pydantic takes true for 1 and "5" for 5, which JSON does not. Its strict mode would refuse 5.0 too, which is 5 there.
    if isinstance(number, (bool, str)):
        raise ValueError("Input should be a valid integer")  # noqa: TRY004 - Pydantic makes a 422 of this one alone
    return number


# Last, or the bounds would be checked by a function that JSON Schema cannot show.
_JSON_NUMBER = BeforeValidator(_number_of_json)


def _known(scope: str) -> str:
    if not is_grantable(scope):
        raise ValueError("There is no such scope, or no key can be given it")
    return scope


class ApiKeyCreate(BaseModel):
    """A new key."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_printable)] = Field(
        min_length=1, max_length=100, description="What it is for."
    )
    scopes: list[Annotated[str, AfterValidator(_known)]] = Field(
        min_length=1,
        max_length=_MAX_SCOPES,
        description="What it may do: `things:read`, `things:*`, or `*` for all that you may do.",
    )
    expires_in_days: Annotated[int, Field(ge=1, le=_MAX_DAYS), _JSON_NUMBER] | None = Field(
        365, description="Null: it does not expire. Better rotate it."
    )


class ApiKeyRotate(BaseModel):
    """How long the former key goes on."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: Annotated[int, Field(ge=0, le=30 * _DAY_SECONDS), _JSON_NUMBER] = Field(
        _DAY_SECONDS, description="Both keys are good for this long."
    )


class ApiKeyOut(BaseModel):
    """A key, without the key itself."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    prefix: str = Field(description="The first letters of the key.")
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None
    rotated_from: UUID | None = Field(description="The key that this one takes the place of.")


class NewApiKeyOut(ApiKeyOut):
    """A new key. It is shown this once and never again."""

    key: str = Field(description="Send it as `X-API-Key` or as `Authorization: Bearer …`.")
