"""The shipped tables of dictionary forms, for code that needs no parse: loaded once in a process, without torch."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.parser import SHIPPED, _import_spacy


@functools.lru_cache(maxsize=1)
def load_lemmas() -> Lemmatizer:
    """Load the dictionary forms of the shipped pipeline.

    Returns:
        The lemmatizer of this process.
    """
    _import_spacy(with_torch=False)  # before the tables: spaCy reads them, and would import torch
    return Lemmatizer(Path(str(resources.files("ram_ray.captions") / SHIPPED)) / "lemmatizer" / "lookups")
