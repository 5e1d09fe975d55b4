"""Row 20: prefix, at least 160 bits, a checksum that tells a bad key without a query, a keyed hash."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.identity import api_key_format
from scalable_fastapi_system.identity.api_key_format import KeyHasher, is_well_formed, new_key
from scalable_fastapi_system.infra.logging import Redactor
from scalable_fastapi_system.infra.settings import SecuritySettings


def test_new_key_has_its_prefix_and_a_good_checksum() -> None:
    key = new_key()
    assert key.startswith("sfk_")
    assert is_well_formed(key)
    assert len({new_key() for _ in range(100)}) == 100


def test_key_is_masked_by_its_look_wherever_it_is_written_and_what_is_shown_of_it_is_not() -> None:
    key = new_key()
    shown = key[: api_key_format.SHOWN_CHARACTERS]
    masked = Redactor()
    for text in (key, f"no user for {key}!", f"/things/{key}?a=1", f"id_{key}", key[:-8]):
        assert key[4:20] not in masked.mask(text), text
        event = masked(None, "", {"event": text, "members": [text]})
        assert key[4:20] not in str(event), text
    assert masked.mask(f"the key {shown}… was revoked") == f"the key {shown}… was revoked"


def test_key_has_at_least_160_random_bits() -> None:
    assert api_key_format._RANDOM_CHARACTERS * math.log2(len(api_key_format._ALPHABET)) >= 160


@given(st.integers(min_value=4, max_value=41), st.sampled_from("0aZ9_-"))
def test_any_changed_letter_breaks_the_checksum(position: int, letter: str) -> None:
    key = "sfk_" + "k" * 32
    key += api_key_format._checksum("k" * 32)
    changed = key[:position] + letter + key[position + 1 :]
    assert is_well_formed(changed) == (changed == key)


def test_what_does_not_look_like_a_key_is_none() -> None:
    key = new_key()
    for text in ("", "sfk_", key[:-1], key + "0", key.upper(), " " + key, key + "\n", "xyz_" + key[4:]):
        assert not is_well_formed(text)


def test_hash_needs_the_secret_and_former_secrets_still_find_the_key() -> None:
    old, new = "the old secret, long enough for it", "the new secret, long enough for it"
    key = new_key()
    stored = KeyHasher(SecuritySettings(secret_key=old)).hash(key)
    assert key[4:] not in stored
    assert stored not in KeyHasher(SecuritySettings(secret_key=new)).hashes(key)
    assert stored in KeyHasher(SecuritySettings(secret_key=new, previous_secret_keys=[old])).hashes(key)
