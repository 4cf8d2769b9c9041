"""The one hash of keys and texts: what is drawn, ordered or parted by it is the same on every machine."""

from __future__ import annotations

import hashlib
from typing import Literal


def hash_key(key: str, *, seed: int = 0, purpose: str = "", byteorder: Literal["big", "little"] = "big") -> int:
    """64 bits that look random, by BLAKE2.

    What must not depend on each other, such as the part of an image and its place in the order of training, takes
    different seeds or purposes.

    Args:
        key: of an image, or any text.
        seed: at least 0.
        purpose: at most 16 bytes.
        byteorder: how the eight bytes are read.

    Returns:
        0 to 2^64 - 1; shifted right by one it fits Arrow's int64.
    """
    salt, person = seed.to_bytes(8, "little"), purpose.encode()
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=salt, person=person).digest()
    return int.from_bytes(digest, byteorder)
