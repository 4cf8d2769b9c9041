"""The shipped tables of dictionary forms, for those who need no parse: loaded once a process, without torch."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.parser import SHIPPED, _import_spacy


@functools.lru_cache(maxsize=1)
def load_lemmas() -> Lemmatizer:
    """Dictionary forms as the shipped pipeline's folder holds them."""
    _import_spacy(with_torch=False)  # first: the tables are read by spaCy, which loads torch if it may
    return Lemmatizer(Path(str(resources.files("ram_ray.captions") / SHIPPED)) / "lemmatizer" / "lookups")
