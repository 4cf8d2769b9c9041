"""The text of a caption as the official training learns it (`clean_captions` of a training), and its tokenizer."""

from __future__ import annotations

import functools

from ram_ray.models.tokenizer import TextTokenizer

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


@functools.lru_cache(maxsize=2)
def load_tokenizer(folder: str) -> TextTokenizer:
    """Load the tokenizer of a folder; it is cached in this process.

    Args:
        folder: folder with tokenizer.json.

    Returns:
        The tokenizer.
    """
    return TextTokenizer.load(folder)
