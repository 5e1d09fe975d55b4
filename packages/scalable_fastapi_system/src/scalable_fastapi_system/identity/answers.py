"""Answers of identity's routes: the envelope, with the guide's members beside `data`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from scalable_fastapi_system.identity.schemas import TokenPair, UserOut
from scalable_fastapi_system.web.envelope import Envelope


class RegisterAnswer(Envelope[UserOut]):
    """A new user, as `data` and as `user`."""

    user: UserOut


class TokenAnswer(Envelope[TokenPair]):
    """New tokens, as `data` and at the top."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a scheme's name
    expires_in: int
    session_id: UUID


class UserAnswer(Envelope[UserOut]):
    """A user, as `data` and at the top."""

    id: int
    username: str
    email: str
    role: str
    is_active: bool
    is_admin: bool
    created_at: datetime
    updated_at: datetime
