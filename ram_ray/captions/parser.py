"""Captions to tags: a spaCy pipeline for the parse, `rules` for the reading.

The pipeline is the shipped one (trained by `training.train_parser` on the UD English Web Treebank) or any installed
spaCy pipeline with a tagger and a dependency parser; its components that tags do not need are left out, its
lemmas are not used (see `lemmas`), and hyphened words stay whole ("t-shirt"). Text goes in cleaned and in
lower case, equal captions of a batch are parsed once, and what is not English is turned away with a reason.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from threadpoolctl import ThreadpoolController

from ram_ray.captions.language import why_rejected
from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.normalize import clean
from ram_ray.captions.rules import Tag, find_tags, read_caption
from ram_ray.captions.triples import Triple
from ram_ray.runtime.storage import local_copy

if TYPE_CHECKING:
    from spacy.language import Language

T = TypeVar("T")
SHIPPED = "en_ud_ewt"
BATCH = 128
ZONE = 100_000  # captions
UNUSED = ["ner", "lemmatizer", "trainable_lemmatizer", "textcat", "entity_linker", "entity_ruler", "senter"]
__all__ = ["Caption", "CaptionParser", "Tag", "Triple", "load_pipeline"]


class Caption(NamedTuple):
    """A caption as read: what `rules.Reading` holds, and why it was turned away (`language.REASONS`), or None."""

    tags: list[Tag]
    relations: list[Triple]
    described: list[tuple[str, str]]
    reason: str | None


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
        self._blas = ThreadpoolController()
        self._lemmas = Lemmatizer(shipped_folder() / "lemmatizer" / "lookups")
        self._zone, self._read = ExitStack(), ZONE  # so that the first captions begin one

    def parse(self, captions: list[str]) -> list[list[Tag]]:
        """Tags of each caption, in the captions' order; a caption that cannot be read has none (see `read`)."""
        return [list(tags) for tags in self._each(captions, find_tags, lambda reason: [])]

    def read(self, captions: list[str]) -> list[Caption]:
        """Tags and relations of each caption, in the captions' order, or the reason why it has none."""

        def found(doc: Any, lemmas: Lemmatizer) -> Caption:
            return Caption(*read_caption(doc, lemmas), reason=None)

        return self._each(captions, found, lambda reason: Caption([], [], [], reason))

    def _each(self, captions: list[str], find: Callable[[Any, Lemmatizer], T], nothing: Callable[[str], T]) -> list[T]:
        """`find` of each caption's parse, `nothing` where it is turned away; equal captions are parsed once."""
        texts = [clean(caption, max_chars=self.max_chars, known=self._lemmas.known_word) for caption in captions]
        results = {text: nothing(reason) for text in set(texts) if (reason := self._why_rejected(text))}
        # Sorted by length, so that a batch holds equally long texts; results do not depend on the order.
        distinct = sorted(set(texts) - results.keys(), key=lambda text: (len(text), text))
        self._forget_words(len(distinct))
        with self._blas.limit(limits=1, user_api="blas"):  # products this small cost twice as much on two threads
            docs = self._nlp.pipe(distinct, batch_size=BATCH)
            results |= {text: find(doc, self._lemmas) for text, doc in zip(distinct, docs, strict=True)}
        return [results[text] for text in texts]

    def _forget_words(self, coming: int) -> None:
        """Begin a new zone of spaCy's memory now and then: without one it keeps every word that it ever met.

        One for each call would have the same words looked up again and again, and costs a twentieth of the speed.
        """
        self._read += coming
        if self._read > ZONE:
            self._zone.close()
            self._zone.enter_context(self._nlp.memory_zone())
            self._read = coming

    def _why_rejected(self, text: str) -> str | None:
        return why_rejected(text, self._lemmas.known_word)


@functools.lru_cache(maxsize=1)
def process_parser(model: str, *, max_chars: int) -> CaptionParser:
    """The parser of this process, which every step that reads captions shares: loading one takes seconds.

    Args:
        model: name of the shipped pipeline, or a spaCy pipeline, as `labels.parser`.
        max_chars: most characters of a caption that are read.
    """
    return CaptionParser(model, max_chars=max_chars)


def load_pipeline(model: str = SHIPPED) -> Language:
    """Load a spaCy pipeline for captions: only the components that the rules need.

    Raises:
        ValueError: if it is not installed, or has no tagger or dependency parser.
    """
    spacy = _import_spacy(with_torch=model != SHIPPED)
    source: str | Path = shipped_folder() if model == SHIPPED else local_copy(model) if "://" in model else model
    try:
        with _fast_products():
            nlp = spacy.load(source, exclude=UNUSED)
    except OSError as error:
        raise ValueError(
            f"the spaCy pipeline {model!r} is not installed; run `python -m spacy download {model}`, give a path or "
            f"a URI, or use the shipped {SHIPPED!r} (labels.parser)"
        ) from error
    if "parser" not in nlp.pipe_names or not {"tagger", "morphologizer"} & set(nlp.pipe_names):
        raise ValueError(
            f"the spaCy pipeline {model!r} has {nlp.pipe_names}, but tags need a dependency parser and a tagger; "
            f"use the shipped {SHIPPED!r} or one such as en_core_web_sm (labels.parser)"
        )
    keep_hyphens(nlp)
    return nlp


@contextmanager
def _fast_products() -> Iterator[None]:
    """Pipelines loaded inside multiply matrices by NumPy's BLAS, not by thinc's own: three times as fast on a CPU.

    thinc's is slow where it does not know the processor (35 against 100 GFLOP/s a core), and half of a parse is
    products. A GPU's or Apple's operations are left alone.
    """
    from thinc.api import NumpyOps, get_current_ops, use_ops

    if type(get_current_ops()) is not NumpyOps:
        yield
        return
    with use_ops("numpy", use_blis=False):
        yield


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


def keep_hyphens(nlp: Language) -> None:
    """Take out of the tokenizer the patterns that split words at a hyphen ("t-shirt")."""
    from spacy.util import compile_infix_regex

    kept = [pattern for pattern in nlp.Defaults.infixes or () if not re.search(pattern, "a-b")]
    tokenizer: Any = nlp.tokenizer
    tokenizer.infix_finditer = compile_infix_regex(kept).finditer


def shipped_folder() -> Path:
    """Where the shipped pipeline lies.

    Raises:
        ValueError: if the package lacks it.
    """
    folder = Path(str(resources.files("ram_ray.captions") / SHIPPED))
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing; train it: `python -m ram_ray.captions.training.train_parser TREEBANK {folder}`"
        )
    return folder
