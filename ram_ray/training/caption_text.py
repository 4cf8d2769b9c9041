"""The text of a caption as the official training learns it (`clean_captions` of a training)."""

from __future__ import annotations

MAX_WORDS = 30
_PUNCTUATION = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))


def clean_caption(text: str) -> str:
    """Remove punctuation but commas, apostrophes and hyphens; lower the case; cut after `MAX_WORDS` words.

    Args:
        text: a caption.

    Returns:
        The text; its words are separated by one space.
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split()[:MAX_WORDS])
