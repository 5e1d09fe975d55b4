"""Unpacking: whatever the pieces and the flavour, the same bytes; small parts; what is wrong is said."""

from __future__ import annotations

import gzip
import zlib

import pytest
from scalable_fastapi_system.infra.unpacking import (
    PART_BYTES,
    DamagedBodyError,
    UnknownEncodingError,
    Unpacker,
)

BODY = bytes(range(256)) * 1000 + b"\0" * 400_000


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


PACKED = {
    "identity": ("identity", BODY),
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip by its old name": ("X-Gzip", gzip.compress(BODY)),
    "gzip in members": ("gzip", b"".join(gzip.compress(part) for part in (BODY[:7], b"", BODY[7:]))),
    "gzip with padding": ("gzip", gzip.compress(BODY) + bytes(100)),
    "deflate": ("deflate", zlib.compress(BODY)),
    "deflate without a wrapper": ("deflate", raw_deflate(BODY)),
    "deflate with something after it": ("deflate", zlib.compress(BODY) + b"more"),
}


def unpack(encoding: str, packed: bytes, piece_bytes: int) -> bytes:
    unpacker = Unpacker([encoding])
    found = b"".join(
        part
        for at in range(0, len(packed), piece_bytes)
        for part in unpacker.parts(packed[at : at + piece_bytes])
    )
    unpacker.finish()
    return found


@pytest.mark.parametrize("piece_bytes", [1, 1000, 10_000_000])
@pytest.mark.parametrize("kind", PACKED)
def test_the_same_bytes_come_out_whatever_the_pieces(kind: str, piece_bytes: int) -> None:
    encoding, packed = PACKED[kind]
    assert unpack(encoding, packed, piece_bytes) == BODY


def test_no_part_is_long() -> None:
    parts = list(Unpacker(["gzip"]).parts(gzip.compress(bytes(10_000_000))))
    assert sum(len(part) for part in parts) == 10_000_000
    assert max(len(part) for part in parts) <= PART_BYTES


@pytest.mark.parametrize("encodings", [["br"], ["gzip", "gzip"], ["deflate", "gzip"], ["zstd", "identity"]])
def test_other_and_several_encodings_are_refused(encodings: list[str]) -> None:
    with pytest.raises(UnknownEncodingError):
        Unpacker(encodings)


def test_none_and_identity_are_no_encoding() -> None:
    for encodings in ([], [""], ["identity", " IDENTITY "]):
        assert list(Unpacker(encodings).parts(b"as it is")) == [b"as it is"]


@pytest.mark.parametrize("kind", ["gzip", "deflate", "deflate without a wrapper"])
def test_a_body_that_breaks_off_is_said_to(kind: str) -> None:
    encoding, packed = PACKED[kind]
    with pytest.raises(DamagedBodyError, match="breaks off"):
        unpack(encoding, packed[:-1], 1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_is_not_packed_at_all_is_damaged(encoding: str) -> None:
    with pytest.raises(DamagedBodyError):
        unpack(encoding, b"\xff is neither", 1)


def test_a_body_of_nothing_is_whole() -> None:
    Unpacker(["gzip"]).finish()
