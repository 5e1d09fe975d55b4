"""Row 12: bcrypt without its 72-byte trap, argon2id by a setting, in threads with a bound, rehash on sign-in."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time

import bcrypt
import pytest
from scalable_fastapi_system.identity.passwords import PasswordHasher
from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.errors import ServiceUnavailableException


def hasher(**values: object) -> PasswordHasher:
    return PasswordHasher(SecuritySettings(**{"bcrypt_rounds": 4, **values}))  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["bcrypt", "argon2id"])
def test_password_is_verified_by_its_hash_and_no_other_is(scheme: str) -> None:
    passwords = hasher(password_hash=scheme)
    hashed = passwords.hash("correct horse")
    assert passwords.verify("correct horse", hashed)
    assert not passwords.verify("correct horsf", hashed)
    assert passwords.hash("correct horse") != hashed, "each hash has a salt of its own"


def test_eighty_byte_password_counts_to_its_last_byte() -> None:
    passwords = hasher()
    hashed = passwords.hash("x" * 72 + "abcdefgh")
    assert passwords.verify("x" * 72 + "abcdefgh", hashed)
    assert not passwords.verify("x" * 72 + "abcdefgX", hashed), "equal 72-byte prefixes must differ"


def test_zero_byte_does_not_end_a_password() -> None:
    passwords = hasher()
    assert not passwords.verify("secret\0two", passwords.hash("secret\0one"))


def test_composed_and_decomposed_letters_are_one_password() -> None:
    passwords = hasher()
    assert passwords.verify("cafe\u0301-au-lait", passwords.hash("caf\u00e9-au-lait"))


def test_plain_bcrypt_hash_from_elsewhere_is_verified_and_due_for_replacement() -> None:
    passwords = hasher()
    long = "y" * 100
    plain = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    assert passwords.verify(long, plain)
    assert passwords.needs_rehash(plain)


def test_hash_of_another_cost_or_kind_is_due_for_replacement() -> None:
    cheap, dear, argon = hasher(), hasher(bcrypt_rounds=5), hasher(password_hash="argon2id")
    assert not cheap.needs_rehash(cheap.hash("x"))
    assert dear.needs_rehash(cheap.hash("x"))
    assert argon.needs_rehash(cheap.hash("x"))
    assert not argon.needs_rehash(argon.hash("x"))
    assert cheap.needs_rehash(argon.hash("x"))
    assert cheap.verify("x", argon.hash("x")), "both kinds are verified whatever the setting"


@pytest.mark.parametrize(
    "hashed", ["", "!", "$2b$12$short", "$argon2id$nonsense", "$bcrypt-sha256$v=2,t=2b,r=4$x$y"]
)
def test_nothing_matches_what_is_no_hash(hashed: str) -> None:
    assert not hasher().verify("", hashed)
    assert not hasher().verify("password", hashed)


@pytest.mark.parametrize("scheme", ["bcrypt", "argon2id"])
def test_nobodys_hash_takes_as_long_as_somebodys(scheme: str) -> None:
    passwords = hasher(password_hash=scheme, bcrypt_rounds=8)
    hashed = passwords.hash("something")

    def seconds(stored: str) -> float:
        started = time.process_time()  # whatever else this machine is doing
        passwords.verify("another", stored)
        return time.process_time() - started

    pairs = [(seconds(hashed), seconds("")) for _ in range(25)]  # by turns: both meet the same weather
    known, unknown = (statistics.median(times) for times in zip(*pairs, strict=True))
    # a check left out is a factor of thousands, one step of bcrypt's cost a factor of two
    assert 1 / 1.5 < unknown / known < 1.5


async def test_no_more_hashes_run_at_once_than_the_setting_allows() -> None:
    passwords = hasher(password_hash_threads=2)
    running, most = 0, 0
    lock = threading.Lock()

    def slow(_password: str, _hashed: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return True

    passwords.verify = slow  # type: ignore[method-assign]
    await asyncio.gather(*(passwords.verify_in_thread("x", "y") for _ in range(12)))
    passwords.close()
    assert most == 2


async def test_more_waiting_than_seconds_could_serve_are_refused_with_503() -> None:
    passwords = hasher(password_hash_threads=1)
    gate = threading.Event()
    passwords.verify = lambda _password, _hashed: gate.wait(5)  # type: ignore[method-assign]
    waiting = [asyncio.ensure_future(passwords.verify_in_thread("x", "y")) for _ in range(9)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailableException) as refused:
        await passwords.verify_in_thread("x", "y")
    assert refused.value.headers["Retry-After"]
    gate.set()
    assert await asyncio.gather(*waiting) == [True] * 9
    assert await passwords.verify_in_thread("x", "y"), "there is room again"
    passwords.close()


async def test_hashing_leaves_the_event_loop_free() -> None:
    passwords = hasher(bcrypt_rounds=11)
    ticks = 0
    hashing = asyncio.ensure_future(passwords.hash_in_thread("correct horse"))
    while not hashing.done():
        await asyncio.sleep(0.001)
        ticks += 1
    passwords.close()
    assert ticks > 10
