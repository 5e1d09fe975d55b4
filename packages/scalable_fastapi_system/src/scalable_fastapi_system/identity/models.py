"""Tables of identity: users, their sign-ins and keys, and the audit log.

Uniqueness is without regard to case: `email` is stored and compared in lower case, `username` keeps the
letters its owner typed and `username_key` is what must be unique. Secrets never leave a model: dumping a
`User` leaves the password hash out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Dialect, ForeignKey, Index, String, Uuid, event
from sqlalchemy.dialects import mysql
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.ids import new_id

MAX_USERNAME_LENGTH = 50
MAX_SUBJECT_LENGTH = 255  # OpenID Connect Core, section 2
MAX_EMAIL_LENGTH = 254  # RFC 5321: a path of 256 octets with its angle brackets

ROLE_USER = "user"
ROLE_ADMIN = "admin"


class ExactText(TypeDecorator[str]):
    """Text that is compared letter by letter on every database."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name in {"mysql", "mariadb"}:
            # Their default collation takes é for e: two people's addresses would be one.
            return dialect.type_descriptor(mysql.VARCHAR(self.length, collation="utf8mb4_bin"))
        return dialect.type_descriptor(String(self.length))


class LowercaseText(ExactText):
    """Text that is lower case in the database, whatever a statement stores or compares it with."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.lower()


def _key_of_username(context: DefaultExecutionContext) -> str:
    parameters: dict[str, Any] = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return str(parameters["username"]).lower()


class User(SQLModel, table=True):
    """Someone who can sign in. `hashed_password` is empty where they only sign in through another provider."""

    __tablename__ = "users"
    # AUTOINCREMENT: without it SQLite gives a deleted user's id, and with it their old tokens, to the next one.
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, primary_key=True)
    username: str = Field(
        sa_column=Column("username", String(MAX_USERNAME_LENGTH), unique=True, index=True, nullable=False)
    )
    username_key: str | None = Field(
        default=None,
        exclude=True,
        sa_column=Column(
            "username_key",
            LowercaseText(MAX_USERNAME_LENGTH),
            unique=True,
            index=True,
            nullable=False,
            default=_key_of_username,
        ),
    )
    email: str = Field(
        sa_column=Column("email", LowercaseText(MAX_EMAIL_LENGTH), unique=True, index=True, nullable=False)
    )
    hashed_password: str = Field(
        default="", exclude=True, repr=False, sa_column=Column("hashed_password", String(255), nullable=False)
    )
    role: str = Field(
        default=ROLE_USER, sa_column=Column("role", String(32), nullable=False, index=True, default=ROLE_USER)
    )
    is_active: bool = Field(default=True, nullable=False)
    # The columns have their defaults too, for inserts of many rows that make no objects.
    created_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("created_at", UTCDateTime, nullable=False, default=utc_now)
    )
    updated_at: datetime = Field(
        default_factory=utc_now,
        sa_column=Column("updated_at", UTCDateTime, nullable=False, default=utc_now, onupdate=utc_now),
    )
    # Tokens that belong to no session are refused when they are older than this.
    tokens_valid_after: datetime | None = Field(
        default=None, exclude=True, sa_column=Column("tokens_valid_after", UTCDateTime, nullable=True)
    )

    @property
    def is_admin(self) -> bool:
        """Whether the user may act on everyone's things."""
        return self.role == ROLE_ADMIN

    def dict(self, **options: Any) -> dict[str, Any]:
        """The user as plain values, without anything secret. `model_dump` by the guide's name."""
        return self.model_dump(**options)


@event.listens_for(User, "before_insert")
@event.listens_for(User, "before_update")
def _normalise_user(_mapper: Any, _connection: Any, user: User) -> None:
    user.username_key = user.username.lower()
    user.email = user.email.lower()
    for name in ("created_at", "updated_at"):
        moment: datetime | None = getattr(user, name)
        # The guide assigns datetime.utcnow(): a naive time here means UTC.
        if moment is not None and moment.tzinfo is None:
            setattr(user, name, moment.replace(tzinfo=UTC))


class AuthSession(SQLModel, table=True):
    """One sign-in and the family of refresh tokens that descends from it.

    A refresh token names its session and its generation. Only the current generation is good; `superseded`
    remembers for the length of the grace when the latest ones were replaced, which tells a client's retry
    from a thief's reuse. A row says all there is to know about a family, so nothing that proves a reuse can be
    cleaned away before the family itself ends.
    """

    __tablename__ = "auth_sessions"
    __table_args__ = (Index("ix_auth_sessions_user_id_expires_at", "user_id", "expires_at"),)

    id: UUID = Field(default_factory=new_id, sa_column=Column("id", Uuid, primary_key=True))
    user_id: int = Field(
        sa_column=Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False)
    )
    method: str = Field(sa_column=Column("method", String(16), nullable=False))
    generation: int = Field(default=1, nullable=False)
    superseded: list[list[float]] = Field(
        default_factory=list, sa_column=Column("superseded", JSONColumn(), nullable=False)
    )
    ip_address: str | None = Field(default=None, sa_column=Column("ip_address", String(45)))
    user_agent: str | None = Field(default=None, sa_column=Column("user_agent", String(200)))
    created_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("created_at", UTCDateTime, nullable=False)
    )
    last_used_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("last_used_at", UTCDateTime, nullable=False)
    )
    expires_at: datetime = Field(sa_column=Column("expires_at", UTCDateTime, nullable=False, index=True))
    revoked_at: datetime | None = Field(default=None, sa_column=Column("revoked_at", UTCDateTime))
    revoked_reason: str | None = Field(default=None, sa_column=Column("revoked_reason", String(32)))


class ApiKey(SQLModel, table=True):
    """A key that acts for its user within its scopes. Only a keyed hash of it is stored."""

    __tablename__ = "api_keys"

    id: UUID = Field(default_factory=new_id, sa_column=Column("id", Uuid, primary_key=True))
    user_id: int = Field(
        sa_column=Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    name: str = Field(sa_column=Column("name", String(100), nullable=False))
    # What its owner knows it by: the first letters of the key.
    prefix: str = Field(sa_column=Column("prefix", String(16), nullable=False))
    key_hash: str = Field(
        exclude=True,
        repr=False,
        sa_column=Column("key_hash", String(64), unique=True, index=True, nullable=False),
    )
    scopes: list[str] = Field(sa_column=Column("scopes", JSONColumn(), nullable=False))
    # The key that this one takes the place of; that one ends when the overlap is over.
    rotated_from: UUID | None = Field(default=None, sa_column=Column("rotated_from", Uuid))
    created_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("created_at", UTCDateTime, nullable=False)
    )
    expires_at: datetime | None = Field(default=None, sa_column=Column("expires_at", UTCDateTime))
    last_used_at: datetime | None = Field(default=None, sa_column=Column("last_used_at", UTCDateTime))
    revoked_at: datetime | None = Field(default=None, sa_column=Column("revoked_at", UTCDateTime))


class ExternalIdentity(SQLModel, table=True):
    """A user as another provider knows them: `subject` at `issuer` (OpenID Connect Core, section 2)."""

    __tablename__ = "external_identities"
    __table_args__ = (Index("ix_external_identities_issuer_subject", "issuer", "subject", unique=True),)

    id: UUID = Field(default_factory=new_id, sa_column=Column("id", Uuid, primary_key=True))
    user_id: int = Field(
        sa_column=Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    issuer: str = Field(sa_column=Column("issuer", ExactText(255), nullable=False))
    subject: str = Field(sa_column=Column("subject", ExactText(MAX_SUBJECT_LENGTH), nullable=False))
    created_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("created_at", UTCDateTime, nullable=False)
    )


class AuditEvent(SQLModel, table=True):
    """Something that happened to an account: `source:subject:action`, written with the change itself.

    Rows are only ever added: triggers of the database refuse to change or delete them.
    """

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_subject_id", "subject", "id"),)

    id: UUID = Field(default_factory=new_id, sa_column=Column("id", Uuid, primary_key=True))
    at: datetime = Field(
        default_factory=utc_now, sa_column=Column("at", UTCDateTime, nullable=False, index=True)
    )
    source: str = Field(sa_column=Column("source", String(64), nullable=False))
    subject: str = Field(sa_column=Column("subject", String(96), nullable=False))
    action: str = Field(sa_column=Column("action", String(64), nullable=False))
    ip_address: str | None = Field(default=None, sa_column=Column("ip_address", String(45)))
    user_agent: str | None = Field(default=None, sa_column=Column("user_agent", String(200)))
    request_id: str | None = Field(default=None, sa_column=Column("request_id", String(64)))
    detail: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column("detail", JSONColumn(), nullable=False)
    )

    @property
    def event(self) -> str:
        """`source:subject:action` in one line."""
        return f"{self.source}:{self.subject}:{self.action}"
