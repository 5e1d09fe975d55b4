"""The guide's `User`, as its reader writes it, on a temporary database."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from scalable_fastapi_system import DatabaseManager, User
from scalable_fastapi_system.infra.settings import Settings
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, load_only


@pytest.fixture
def db() -> Iterator[Session]:
    manager = DatabaseManager(Settings(environment="test", _env_file=None))  # type: ignore[call-arg]
    session = manager.SessionLocal()
    yield session
    session.close()
    manager.engine.dispose()


def ada() -> User:
    return User(username="Ada", email="Ada@Example.com", hashed_password="hash")


def test_user_is_created_queried_and_updated_as_in_the_guide(db: Session) -> None:
    user = ada()
    db.add(user)
    db.commit()
    db.refresh(user)
    assert isinstance(user.id, int)
    assert db.query(User).filter(User.id == user.id).first() is user
    assert db.query(User).filter((User.username == "Ada") | (User.email == "x@example.com")).first() is user
    assert db.query(User).filter(User.role == "user").all() == [user]
    user.email = "Updated@example.com"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        user.updated_at = datetime.utcnow()  # noqa: DTZ003 - what the guide does
    db.commit()
    db.refresh(user)
    assert user.email == "updated@example.com"
    assert user.updated_at.tzinfo is UTC
    some = db.query(User).options(load_only(User.id, User.username, User.email)).offset(0).limit(100).all()
    assert [found.username for found in some] == ["Ada"]


def test_addresses_are_found_whatever_their_case(db: Session) -> None:
    db.add(ada())
    db.commit()
    assert db.query(User).filter(User.email == "ADA@EXAMPLE.COM").count() == 1


@pytest.mark.parametrize(
    "second",
    [
        {"username": "ada", "email": "other@example.com"},
        {"username": "other", "email": "ADA@example.com"},
    ],
)
def test_case_makes_no_second_user(db: Session, second: dict[str, str]) -> None:
    db.add(ada())
    db.commit()
    db.add(User(**second, hashed_password="x"))
    with pytest.raises(IntegrityError):
        db.commit()


def test_batch_of_users_is_added_as_in_the_guide(db: Session) -> None:
    users = [User(username=f"user{n}", email=f"user{n}@example.com", hashed_password="x") for n in range(50)]
    db.add_all(users)
    db.commit()
    assert db.query(User).count() == 50


def test_insert_of_plain_rows_fills_in_what_is_not_said(db: Session) -> None:
    db.execute(insert(User), [{"username": "Bob", "email": "Bob@Example.com", "hashed_password": ""}])
    db.commit()
    bob = db.query(User).one()
    assert (bob.username_key, bob.email, bob.role, bob.is_active) == ("bob", "bob@example.com", "user", True)
    assert bob.created_at.tzinfo is UTC


def test_dump_of_a_user_holds_no_secret(db: Session) -> None:
    user = ada()
    db.add(user)
    db.commit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dumped = user.dict()
    assert set(dumped) == {"id", "username", "email", "role", "is_active", "created_at", "updated_at"}
    assert "hash" not in repr(user)
    assert "hash" not in user.model_dump_json()


def test_id_of_a_deleted_user_is_not_given_again(db: Session) -> None:
    user = ada()
    db.add(user)
    db.commit()
    first = user.id
    db.delete(user)
    db.commit()
    other = ada()
    db.add(other)
    db.commit()
    assert other.id != first
