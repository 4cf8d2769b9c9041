"""Turns the section `labels` of a configuration into `BuildOptions`: reads its files, WordNet and vectors.

Every input that changes the result is read here, on the driver, and the digest of its bytes is part of the stage's
identity. So a changed file gives a new label system, and so does a machine without WordNet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fsspec
import numpy as np

from ram_ray.captions.lemmas import PART_OF_SPEECH, Lemmatizer
from ram_ray.labels.build import BuildOptions
from ram_ray.labels.edits import Edits, read_edits
from ram_ray.labels.embeddings import read_vectors
from ram_ray.labels.names import Key, digest, read_names
from ram_ray.labels.synonyms import Synonyms, read_synonyms, shipped_synonyms
from ram_ray.labels.wordnet import WordNet
from ram_ray.settings.labels import LabelsConfig

_BUILD_FIELDS = ("max_labels", "min_count", "min_sources", "spread", "min_share", "kinds")


def identity(config: LabelsConfig, *, edits: str | None = None, encoder: str | None = None) -> dict[str, Any]:
    """Collect the inputs of a build apart from the counts: settings, and digests of all files that are read.

    Args:
        config: section `labels`.
        edits: URI of the edits file, as `find_edits` returns it.
        encoder: digest of the run's text encoder, where its vectors are used.

    Returns:
        A tree for JSON; two builds from equal counts and equal trees give equal label systems.

    Raises:
        ValueError: if a file that the configuration names cannot be read.
    """
    wordnet = WordNet.find(config.wordnet)
    return {
        **config.model_dump(mode="json", include=set(_BUILD_FIELDS)),
        **{name: digest(getattr(config, name)) for name in ("system", "stop", "synonyms")},
        "edits": digest(edits),
        "shipped": shipped_synonyms().digest,
        "wordnet": wordnet.digest if wordnet else None,
        "embeddings": encoder if config.embeddings == "represent" else digest(config.embeddings),
        "similarity": config.similarity,
        "match": _match_settings(config),
    }


def find_edits(config: LabelsConfig, run_uri: str | None) -> str | None:
    """Find the edits file: the configured file, or `label_edits.yaml` in the run's folder.

    Args:
        config: section `labels`.
        run_uri: the run's folder; None: no run.

    Returns:
        URI of the file; None if there is none.
    """
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
    """Read all files that the configuration names.

    Args:
        config: section `labels`.
        names: counted names; dictionary forms and vectors are looked up for these only.
        edits: URI of the edits file, as `find_edits` returns it.
        lemmas: tables of dictionary forms; None: inflections are not merged.
        vectors: name -> (D,), where the vectors come from the run's own encoder.

    Returns:
        The options of `build`.

    Raises:
        ValueError: if a file cannot be read or has the wrong format.
    """
    names = list(names)
    if vectors is None and config.embeddings and config.embeddings != "represent":
        vectors = read_vectors(config.embeddings, (name for name, _ in names))
    return BuildOptions(
        **config.model_dump(include=set(_BUILD_FIELDS)),
        stop=frozenset(read_names(config.stop, setting="labels.stop") if config.stop else ()),
        edits=read_edits(edits) if edits else Edits(),
        shipped=shipped_synonyms(),
        synonyms=read_synonyms(config.synonyms) if config.synonyms else Synonyms(),
        lemma=dictionary_forms(names, lemmas) if lemmas else {},
        senses=WordNet.find(config.wordnet),
        vectors=vectors or {},
        similarity=config.similarity,
    )


def dictionary_forms(names: Iterable[Key], lemmas: Lemmatizer) -> dict[Key, str]:
    """Look up the dictionary forms of names; in a compound the last word is inflected.

    Args:
        names: name and kind.
        lemmas: tables of dictionary forms.

    Returns:
        Name and kind -> dictionary form, for names that differ from it.
    """
    forms = {}
    for name, kind in names:
        first, space, last = name.rpartition(" ")
        if kind != "attribute" and (base := lemmas(last, PART_OF_SPEECH[kind])) != last:
            forms[name, kind] = f"{first}{space}{base}"
    return forms


def _match_settings(config: LabelsConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include={"match", "match_agreement"})
