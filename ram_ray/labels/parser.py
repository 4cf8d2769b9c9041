"""Captions to tags: a spaCy pipeline for the parse, `rules` for the reading.

The pipeline is the shipped one (trained by `train_parser` on the UD English Web Treebank) or any installed
spaCy pipeline with a tagger and a dependency parser; its components that tags do not need are left out, its
lemmas are not used (see `lemmas`), and hyphened words stay whole ("t-shirt"). Text goes in cleaned and in
lower case, equal captions of a batch are parsed once.
"""

from __future__ import annotations

import re
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ram_ray.labels.lemmas import Lemmatizer
from ram_ray.labels.normalize import clean
from ram_ray.labels.rules import Tag, find_tags

if TYPE_CHECKING:
    from spacy.language import Language

SHIPPED = "en_ud_ewt"
BATCH = 128
__all__ = ["CaptionParser", "Tag", "load_pipeline"]


class CaptionParser:
    """Reads objects, scenes, attributes and actions from English captions.

    Args:
        model: the shipped pipeline's name, or the name or path of any installed spaCy pipeline.
        max_chars: longer captions are cut at the end of a word.

    Raises:
        ValueError: if the pipeline is not installed, or has no tagger or dependency parser.
    """

    def __init__(self, model: str = SHIPPED, *, max_chars: int = 1000) -> None:
        if max_chars < 1:
            raise ValueError(f"max_chars is {max_chars}; give at least 1")
        self.max_chars = max_chars
        self._nlp = load_pipeline(model)
        self._lemmas = Lemmatizer(_shipped_folder() / "lemmatizer" / "lookups")

    def parse(self, captions: list[str]) -> list[list[Tag]]:
        """Tags of each caption, in the captions' order; an empty or unreadable caption has none."""
        texts = [clean(caption, max_chars=self.max_chars) for caption in captions]
        # Sorted by length, so that a batch holds equally long texts; results do not depend on the order.
        distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
        docs = self._nlp.pipe(distinct, batch_size=BATCH)
        tags = {text: find_tags(doc, self._lemmas) for text, doc in zip(distinct, docs, strict=True)}
        return [list(tags.get(text, ())) for text in texts]


def load_pipeline(model: str = SHIPPED) -> Language:
    """Load a spaCy pipeline for captions: only the components that the rules need.

    Raises:
        ValueError: if it is not installed, or has no tagger or dependency parser.
    """
    spacy = _import_spacy(with_torch=model != SHIPPED)
    unused = ["ner", "lemmatizer", "trainable_lemmatizer", "textcat", "entity_linker", "entity_ruler", "senter"]
    source: str | Path = _shipped_folder() if model == SHIPPED else model
    try:
        nlp = spacy.load(source, exclude=unused)
    except OSError as error:
        raise ValueError(
            f"the spaCy pipeline {model!r} is not installed; run `python -m spacy download {model}`, give a path, "
            f"or use the shipped {SHIPPED!r} (labels.parser)"
        ) from error
    if "parser" not in nlp.pipe_names or not {"tagger", "morphologizer"} & set(nlp.pipe_names):
        raise ValueError(
            f"the spaCy pipeline {model!r} has {nlp.pipe_names}, but tags need a dependency parser and a tagger; "
            f"use the shipped {SHIPPED!r} or one such as en_core_web_sm (labels.parser)"
        )
    nlp.tokenizer.infix_finditer = _infixes(nlp)
    return nlp


def _import_spacy(*, with_torch: bool):
    """Import spaCy; without torch where nothing needs it.

    spaCy's thinc imports torch wherever it is installed, which costs 0.75 GB a process and seconds of start; the
    shipped pipeline has no torch layer. A process that already has torch, or thinc, is left as it is.
    """
    if with_torch or {"torch", "thinc"} & sys.modules.keys():
        import spacy

        return spacy
    sys.modules["torch"] = None  # type: ignore[assignment]  # "import torch" fails while this stands
    try:
        import spacy
    finally:
        del sys.modules["torch"]
    return spacy


def _infixes(nlp: Language):
    """The pipeline's infix patterns without those that split words at a hyphen."""
    from spacy.util import compile_infix_regex

    kept = [pattern for pattern in nlp.Defaults.infixes or () if not re.search(pattern, "a-b")]
    return compile_infix_regex(kept).finditer


def _shipped_folder() -> Path:
    folder = Path(str(resources.files("ram_ray.labels") / SHIPPED))
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; train it: `python -m ram_ray.labels.train_parser TREEBANK {folder}`")
    return folder
