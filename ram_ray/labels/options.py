"""From the section `labels` of a configuration to what `build` takes: files read, WordNet and vectors found.

Everything that changes the result is read here, once, on the driver, and is part of the stage's identity by its
bytes: a file that changes gives a new label system, a machine without WordNet another one than a machine with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fsspec
import numpy as np

from ram_ray.captions.lemmas import PART_OF_SPEECH, Lemmatizer
from ram_ray.labels.build import BuildOptions
from ram_ray.labels.edits import Edits, read_edits
from ram_ray.labels.names import Key, digest, read_names
from ram_ray.labels.similar import read_vectors
from ram_ray.labels.synonyms import Synonyms, read_synonyms, shipped_synonyms
from ram_ray.labels.wordnet import WordNet
from ram_ray.settings.labels import LabelsConfig

_BUILT_BY = ("max_labels", "min_count", "min_sources", "spread", "min_share", "kinds")


def identity(config: LabelsConfig, *, edits: str | None = None, encoder: str | None = None) -> dict[str, Any]:
    """What makes two builds from equal counts the same: numbers, and digests of all files that are read.

    Args:
        config: section `labels`.
        edits: the edits file that is used, which may be the run's own.
        encoder: digest of the run's text encoder, where its vectors are used.

    Raises:
        ValueError: if a file that the configuration names cannot be read.
    """
    wordnet = WordNet.find(config.wordnet)
    return {
        **config.model_dump(mode="json", include=set(_BUILT_BY)),
        **{name: digest(getattr(config, name)) for name in ("system", "stop", "synonyms")},
        "edits": digest(edits),
        "shipped": shipped_synonyms().digest,
        "wordnet": wordnet.digest if wordnet else None,
        "embeddings": encoder if config.embeddings == "represent" else digest(config.embeddings),
        "similarity": config.similarity,
        "match": _matching(config),
    }


def find_edits(config: LabelsConfig, run_uri: str | None) -> str | None:
    """The hand edits to apply: those that the configuration names, or `label_edits.yaml` in the run's folder."""
    if config.edits or run_uri is None:
        return config.edits
    uri = f"{run_uri.rstrip('/')}/label_edits.yaml"
    fs, path = fsspec.url_to_fs(uri)
    return uri if fs.exists(path) else None


def make_options(
    config: LabelsConfig,
    names: Iterable[Key],
    *,
    edits: str | None = None,
    lemmas: Lemmatizer | None = None,
    vectors: dict[str, np.ndarray] | None = None,
) -> BuildOptions:
    """Read everything that the configuration names.

    Args:
        config: section `labels`.
        names: what was counted: dictionary forms and vectors are looked up for these alone.
        edits: as `find_edits` gives it.
        lemmas: tables of dictionary forms; None: inflections are not merged.
        vectors: of names, where they come from the run's own encoder.

    Raises:
        ValueError: if a file cannot be read or is not in its form.
    """
    names = list(names)
    if vectors is None and config.embeddings and config.embeddings != "represent":
        vectors = read_vectors(config.embeddings, (name for name, _ in names))
    return BuildOptions(
        **config.model_dump(include=set(_BUILT_BY)),
        stop=frozenset(read_names(config.stop, what="labels.stop") if config.stop else ()),
        edits=read_edits(edits) if edits else Edits(),
        shipped=shipped_synonyms(),
        synonyms=read_synonyms(config.synonyms) if config.synonyms else Synonyms(),
        lemma=inflected(names, lemmas) if lemmas else {},
        senses=WordNet.find(config.wordnet),
        vectors=vectors or {},
        similarity=config.similarity,
    )


def inflected(names: Iterable[Key], lemmas: Lemmatizer) -> dict[Key, str]:
    """Dictionary forms of the names that have another one; in a compound the last word carries the ending."""
    found = {}
    for name, kind in names:
        first, space, last = name.rpartition(" ")
        if kind != "attribute" and (base := lemmas(last, PART_OF_SPEECH[kind])) != last:
            found[name, kind] = f"{first}{space}{base}"
    return found


def _matching(config: LabelsConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include={"match", "match_agreement"})
