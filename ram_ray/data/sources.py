"""The source of a shard: its name without the numbers that tell the shards of a source apart."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(^|[-_.])\d+$")  # number of a folder: "part-00003", not "coco2017"
_STEM_NUMBER = re.compile(r"[-_.]?\d+$")


def source_of(shard: str) -> str:
    """Source of the captions of a shard.

    Args:
        shard: name of the shard.

    Returns:
        The name without numbers: "cc3m" for "cc3m/00003".
    """
    *folders, stem = shard.split("/")
    parts = [*(_NUMBER.sub("", folder) for folder in folders), _STEM_NUMBER.sub("", stem)]
    return "/".join(part for part in parts if part) or shard
