"""What the limits answer with, and how they know the caller: the same for the hand-written and the naive one."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated
from uuid import UUID

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict, Field

PAGE_SIZE = 100

_bearer = OAuth2PasswordBearer(tokenUrl="login")


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    email: str
    role: str
    is_active: bool
    created_at: datetime
    updated_at: datetime


class ItemIn(BaseModel):
    title: str = Field(min_length=1, max_length=200)
    description: str = Field("", max_length=5000)


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    owner_id: int
    title: str
    description: str
    created_at: datetime


class ItemsOut(BaseModel):
    data: list[ItemOut]


async def user_id(token: Annotated[str, Depends(_bearer)]) -> int:
    """As the tutorials verify a token: its signature and expiry, at every request."""
    try:
        return int(jwt.decode(token, os.environ["SECRET"], algorithms=["HS256"])["sub"])
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "invalid token") from error


Caller = Annotated[int, Depends(user_id)]
