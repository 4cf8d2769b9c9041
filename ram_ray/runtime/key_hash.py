"""The hash of keys and texts: a draw, an order or a partition that follows from it is the same on every machine."""

from __future__ import annotations

import hashlib
from typing import Literal


def hash_key(key: str, *, seed: int = 0, purpose: str = "", byteorder: Literal["big", "little"] = "big") -> int:
    """Hash a text to 64 bits with BLAKE2.

    Uses that must be independent, such as the part of an image and its position in the order of training, have
    different seeds or purposes.

    Args:
        key: key of an image, or any text.
        seed: salt of the hash, at least 0.
        purpose: personalisation of the hash, at most 16 bytes.
        byteorder: byte order of the result.

    Returns:
        0 to 2^64 - 1; shifted right by one it fits Arrow's int64.
    """
    salt, person = seed.to_bytes(8, "little"), purpose.encode()
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=salt, person=person).digest()
    return int.from_bytes(digest, byteorder)
