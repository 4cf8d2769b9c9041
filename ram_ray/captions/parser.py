"""Captions to tags: a spaCy pipeline parses them, `rules` reads the tags off the parse.

The pipeline is the shipped one (trained by `training.train_parser` on the UD English Web Treebank) or any installed
spaCy pipeline with a tagger and a dependency parser. Components that the rules do not need are left out, its lemmas are
not used (see `lemmas`), and hyphened words stay whole ("t-shirt"). Text is cleaned and lower-cased first, equal
captions of a batch are parsed once, and captions that are not English are rejected with a reason.
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
from ram_ray.captions.names import is_listed
from ram_ray.captions.normalize import clean
from ram_ray.captions.rules import Tag, find_tags, read_caption
from ram_ray.captions.triples import Triple
from ram_ray.runtime.storage import local_copy

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

T = TypeVar("T")
SHIPPED = "en_ud_ewt"
BATCH = 128
CAPTIONS_CACHED = 16_384  # captions that a process reads before the first memory zone: their words stay cached
CAPTIONS_PER_ZONE = 100_000  # captions that share a spaCy memory zone
UNUSED = ["ner", "lemmatizer", "trainable_lemmatizer", "textcat", "entity_linker", "entity_ruler", "senter"]
__all__ = ["Caption", "CaptionParser", "Tag", "Triple", "load_pipeline"]


class Caption(NamedTuple):
    """A caption as read: the fields of `rules.Reading`, and the reason of a rejection (`language.REASONS`) or None."""

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
        self._zone, self._num_read = ExitStack(), CAPTIONS_PER_ZONE - CAPTIONS_CACHED

    def parse(self, captions: list[str]) -> list[list[Tag]]:
        """Read the tags of captions.

        Args:
            captions: raw texts.

        Returns:
            The tags of each caption, in the order of `captions`; a rejected caption has none.
        """
        return [list(tags) for tags in self._read_each(captions, find_tags, lambda reason: [])]

    def read(self, captions: list[str]) -> list[Caption]:
        """Read the tags and relations of captions.

        Args:
            captions: raw texts.

        Returns:
            A `Caption` for each caption, in the order of `captions`.
        """

        def to_caption(doc: Doc, lemmas: Lemmatizer, caption: str) -> Caption:
            return Caption(*read_caption(doc, lemmas, caption), reason=None)

        return self._read_each(captions, to_caption, lambda reason: Caption([], [], [], reason))

    def _read_each(
        self, captions: list[str], read: Callable[[Doc, Lemmatizer, str], T], reject: Callable[[str], T]
    ) -> list[T]:
        """`read` of each caption's parse, `reject` of a rejected caption's reason; equal captions are parsed once."""
        texts = [clean(caption, max_chars=self.max_chars, known=self._lemmas.known_word) for caption in captions]
        results = {text: reject(reason) for text in set(texts) if (reason := self._why_rejected(text))}
        # Sorted by length, so that a batch holds equally long texts; results do not depend on the order.
        distinct = sorted(set(texts) - results.keys(), key=lambda text: (len(text), text.lower(), text))
        self._renew_memory_zone(len(distinct))
        with self._blas.limit(limits=1, user_api="blas"):  # small matrix products are slower on two threads
            docs = self._nlp.pipe(map(str.lower, distinct), batch_size=BATCH)
            results |= {text: read(doc, self._lemmas, text) for text, doc in zip(distinct, docs, strict=True)}
        return [results[text] for text in texts]

    def _renew_memory_zone(self, num_texts: int) -> None:
        """Begin a new spaCy memory zone after `CAPTIONS_PER_ZONE` captions: without a zone spaCy stores every word.

        A zone for each call would look up the same words again, which costs 5% of the speed. In a zone the tokenizer
        caches no words, which costs 8%: so the first captions are read outside of one, and fill its cache.
        """
        self._num_read += num_texts
        if self._num_read > CAPTIONS_PER_ZONE:
            self._zone.close()
            self._zone.enter_context(self._nlp.memory_zone())
            self._num_read = num_texts

    def _why_rejected(self, text: str) -> str | None:
        return why_rejected(text.lower(), lambda word: self._lemmas.known_word(word) or is_listed(word))


@functools.lru_cache(maxsize=1)
def process_parser(model: str, *, max_chars: int) -> CaptionParser:
    """The parser of this process, shared by all steps that read captions: loading a parser takes seconds.

    Args:
        model: name of the shipped pipeline, or a spaCy pipeline, as `labels.parser`.
        max_chars: most characters of a caption that are read.

    Returns:
        The parser, loaded at the first call.
    """
    return CaptionParser(model, max_chars=max_chars)


def load_pipeline(model: str = SHIPPED) -> Language:
    """Load a spaCy pipeline with only the components that the rules need.

    Args:
        model: `SHIPPED`, or the name, path or URI of another spaCy pipeline.

    Returns:
        The pipeline; its tokenizer leaves hyphened words whole.

    Raises:
        ValueError: if it is not installed, or has no tagger or dependency parser.
    """
    spacy = _import_spacy(with_torch=model != SHIPPED)
    source: str | Path = shipped_folder() if model == SHIPPED else local_copy(model) if "://" in model else model
    try:
        with _numpy_blas():
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
def _numpy_blas() -> Iterator[None]:
    """Pipelines loaded in this context multiply matrices with NumPy's BLAS, not with thinc's BLIS.

    BLIS is slow on processors that it does not know (35 against 100 GFLOP/s for each core), and half of a parse is
    matrix products. Operations on a GPU or on Apple's processors are not changed.
    """
    from thinc.api import NumpyOps, get_current_ops, use_ops

    if type(get_current_ops()) is not NumpyOps:
        yield
        return
    with use_ops("numpy", use_blis=False):
        yield


def _import_spacy(*, with_torch: bool):
    """Import spaCy; without torch where the pipeline does not need it.

    spaCy's thinc imports torch wherever it is installed, which costs 0.75 GB in each process and seconds at its start;
    the shipped pipeline has no torch layer. A process that has imported torch or thinc already is not changed.
    """
    if with_torch or {"torch", "thinc"} & sys.modules.keys():
        import spacy

        return spacy
    sys.modules["torch"] = None  # type: ignore[assignment]  # until it is deleted, "import torch" fails
    try:
        import spacy
    finally:
        del sys.modules["torch"]
    return spacy


def keep_hyphens(nlp: Language) -> None:
    """Remove from the tokenizer the patterns that split words at a hyphen ("t-shirt").

    Args:
        nlp: the pipeline; changed.
    """
    from spacy.util import compile_infix_regex

    patterns = [pattern for pattern in nlp.Defaults.infixes or () if not re.search(pattern, "a-b")]
    tokenizer: Any = nlp.tokenizer
    tokenizer.infix_finditer = compile_infix_regex(patterns).finditer


def shipped_folder() -> Path:
    """Folder of the shipped pipeline.

    Returns:
        Its path in the installed package.

    Raises:
        ValueError: if the package lacks it.
    """
    folder = Path(str(resources.files("ram_ray.captions") / SHIPPED))
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing; train it: `python -m ram_ray.captions.training.train_parser TREEBANK {folder}`"
        )
    return folder
