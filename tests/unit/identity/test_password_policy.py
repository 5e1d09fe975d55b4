"""Row 15: the guide's rule for short passwords, length in its place from twelve on, the commonest refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.identity.common_passwords import is_built_on, is_common
from scalable_fastapi_system.identity.password_policy import MAX_LENGTH, password_problem


@pytest.mark.parametrize("password", ["testpassword123", "integrationpass123"])
def test_passwords_of_the_guides_own_tests_are_accepted(password: str) -> None:
    assert password_problem(password, own_words=("testuser", "test@example.com")) is None


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("Sh0rt", "at least 8 characters"),
        ("nouppercas3", "uppercase"),
        ("NOLOWERCAS3", "lowercase"),
        ("NoDigitsAtA", "digit"),
    ],
)
def test_short_password_needs_what_the_guide_asks_for(password: str, problem: str) -> None:
    found = password_problem(password)
    assert found is not None
    assert problem in found


@pytest.mark.parametrize("password", ["Kx9mPq2v", "Sup3rSecre7", "brown fox jumps", "nur kleine buchstaben"])
def test_good_password_is_accepted(password: str) -> None:
    assert password_problem(password) is None


def test_length_takes_the_place_of_composition_from_twelve_characters_on() -> None:
    assert password_problem("lowercaseon") is not None
    assert password_problem("lowercaseonl") is None


def test_password_longer_than_the_limit_is_refused() -> None:
    assert password_problem("aB3" + "xyzw" * 64) is not None
    assert password_problem(("correct horse battery " * 20)[:MAX_LENGTH]) is None


@pytest.mark.parametrize(
    "password",
    [
        "Password1",
        "P@ssw0rd1",
        "Passw0rd!",
        "P455w0rd",
        "Qwerty123",
        "Iloveyou1",
        "Welcome1!",
        "Summer2024",
        "Letmein123",
        "Monkey12",
        "Dragon99",
        "Abc12345",
        "1q2w3e4R",
        "1qaz2wsX",
        "Aa123456",
        "Qwe12345",
        "Test1234",
        "Admin123",
        "Charlie1",
        "Changeme123!",
        "Passw0rd2023!",
        "7rustNo1",
        "password123456",
        "qwertyuiop123",
        "123456789012",
        "111222333444",
        "aaaaaaaaaaaa",
        "passwordpassword",
        "abcdefghijkl",
        "iloveyou2024",
        "correcthorsebatterystaple",
        "QwertyQwerty1",
        "aabbccddeeff",
        "qwertyuiopasdfghjkl",
        "147258369147",
    ],
)
def test_common_password_is_refused(password: str) -> None:
    assert is_common(password)
    assert password_problem(password) is not None


def test_password_that_is_little_more_than_the_own_name_is_refused() -> None:
    assert password_problem("Kunigunde24", own_words=("kunigunde", "k@example.com")) is not None
    assert password_problem("rumpelstilzchen1", own_words=("x_x", "Rumpelstilzchen@example.com")) is not None
    assert password_problem("Kunigunde24", own_words=("someone", "s@example.com")) is None


@given(st.text(min_size=0, max_size=300))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    is_common(text)
    is_built_on(text, (text[:5], "somebody"))


def test_judging_the_longest_password_takes_milliseconds() -> None:
    started = time.process_time()  # what other processes take of the machine does not count
    for text in ("ab" * 128, "1q2w3e4r" * 32, "z" * 256, "password" * 32):
        password_problem(text)
    assert (time.process_time() - started) / 4 < 0.1
