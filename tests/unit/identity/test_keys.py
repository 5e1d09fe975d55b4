"""Row 17: keys rotate without a wrong 401 and the public ones are published; a symmetric one never is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from scalable_fastapi_system.identity.keys import KeyFile, SecretKeys
from scalable_fastapi_system.identity.security import SecurityManager
from scalable_fastapi_system.identity.tokens import InvalidTokenException
from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.errors import ConfigurationError

OLD, NEW = "the old secret, long enough for it", "the new secret, long enough for it"


class Monotonic:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rsa(kid: str) -> Key:
    return RSAKey.generate_key(2048, {"kid": kid})


def write(file: Path, *keys: Key, public: tuple[Key, ...] = ()) -> Path:
    document = {
        "keys": [
            *(key.as_dict(private=True) for key in keys),
            *(key.as_dict(private=False) for key in public),
        ]
    }
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(document))
    temporary.replace(file)  # as Kubernetes swaps a mounted secret: all at once
    return file


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: RSAKey.generate_key(2048)),
        ("ES256", lambda: ECKey.generate_key("P-256")),
        ("EdDSA", lambda: OKPKey.generate_key("Ed25519")),
    ],
)
def test_token_signed_by_a_key_file_is_verified_by_the_published_set(
    tmp_path: Path, algorithm: Any, make: Any
) -> None:
    from joserfc import jwt
    from joserfc.jwk import KeySet

    file = write(tmp_path / "keys.json", make())
    manager = SecurityManager(SecuritySettings(secret_key=NEW, algorithm=algorithm, signing_keys_file=file))
    token = manager.create_access_token({"sub": "ada"})
    assert manager.verify_token(token)["sub"] == "ada"
    published = manager.public_jwks()
    assert "d" not in published["keys"][0]
    key_set = KeySet.import_key_set(published)
    decoded = jwt.decode(token, key_set, algorithms=[published["keys"][0]["alg"]])
    assert decoded.claims["sub"] == "ada"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secret_is_never_published(algorithm: Any) -> None:
    manager = SecurityManager(SecuritySettings(secret_key=NEW, algorithm=algorithm))
    assert manager.verify_token(manager.create_access_token({"sub": "ada"}))
    assert manager.public_jwks() == {"keys": []}


def test_secret_rotates_in_two_steps_without_a_wrong_refusal() -> None:
    """First every replica knows the new secret, then each signs with it; replicas of both steps live side by side."""
    before = SecurityManager(SecuritySettings(secret_key=OLD))
    step_one = SecurityManager(SecuritySettings(secret_key=OLD, previous_secret_keys=[NEW]))
    step_two = SecurityManager(SecuritySettings(secret_key=NEW, previous_secret_keys=[OLD]))
    after = SecurityManager(SecuritySettings(secret_key=NEW))
    for together in ((before, step_one), (step_one, step_two), (step_two,)):
        for signer in together:
            token = signer.create_access_token({"sub": "ada"})
            assert all(verifier.verify_token(token) for verifier in together)
    with pytest.raises(InvalidTokenException):
        after.verify_token(before.create_access_token({"sub": "ada"}))


def test_key_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    clock = Monotonic()
    one, two = rsa("one"), rsa("two")
    keys = KeyFile(write(tmp_path / "keys.json", one), algorithm="RS256", monotonic=clock)
    assert keys.signer().kid == "one"
    write(tmp_path / "keys.json", two, one)
    assert keys.signer().kid == "one", "not looked at more than once a second"
    clock.now += 1.5
    assert keys.signer().kid == "two"
    assert keys.find("one") is not None, "tokens of the former key are still good"
    write(tmp_path / "keys.json", two, public=(one,))
    clock.now += 1.5
    assert keys.find("one") is not None, "a retired key needs its public half only"
    assert not keys.find("one").can_sign  # type: ignore[union-attr]


def test_key_file_that_breaks_later_leaves_the_former_keys_in_force(tmp_path: Path) -> None:
    clock = Monotonic()
    file = write(tmp_path / "keys.json", rsa("one"))
    keys = KeyFile(file, algorithm="RS256", monotonic=clock)
    for content in ("not json", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA"}]}'):
        file.write_text(content)
        clock.now += 1.5
        assert keys.signer().kid == "one"
    file.unlink()
    clock.now += 1.5
    assert keys.signer().kid == "one"
    write(file, rsa("two"))
    clock.now += 1.5
    assert keys.signer().kid == "two", "and a good one is taken"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("not json", "not readable JSON"),
        ("[]", "not a JWK set"),
        ('{"keys": []}', "not a JWK set"),
        ('{"keys": [{"kty": "RSA"}]}', "cannot be imported"),
        ('{"keys": ["x"]}', "cannot be imported"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}', "does not fit"),
    ],
)
def test_key_file_that_cannot_be_used_is_named_at_the_start(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=problem) as refused:
        KeyFile(file, algorithm="RS256")
    assert "SECURITY__SIGNING_KEYS_FILE" in str(refused.value)


def test_file_whose_first_key_is_public_or_whose_kids_repeat_is_refused(tmp_path: Path) -> None:
    one = rsa("one")
    with pytest.raises(ConfigurationError, match="private"):
        KeyFile(write(tmp_path / "a.json", public=(one,)), algorithm="RS256")
    with pytest.raises(ConfigurationError, match="same kid"):
        KeyFile(write(tmp_path / "b.json", one, rsa("one")), algorithm="RS256")


def test_short_rsa_key_and_wrong_curve_are_refused(tmp_path: Path) -> None:
    with pytest.warns(SecurityWarning):
        short = RSAKey.generate_key(1024)
    with pytest.raises(ConfigurationError, match="does not fit"):
        KeyFile(write(tmp_path / "a.json", short), algorithm="RS256")
    with pytest.raises(ConfigurationError, match="does not fit"):
        KeyFile(write(tmp_path / "b.json", ECKey.generate_key("P-384")), algorithm="ES256")


def test_kid_tells_nothing_of_the_secret_and_differs_by_purpose() -> None:
    security = SecuritySettings(secret_key=NEW)
    one, two = SecretKeys(security, "one").signer(), SecretKeys(security, "two").signer()
    assert one.kid != two.kid
    assert NEW not in one.kid
    assert os.fsencode(one.kid) not in one.key.raw_value
