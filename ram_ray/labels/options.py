"""The settings of the stage `label_system`, and `BuildOptions` made of them: reads files, WordNet and vectors.

Every input that changes the result is read here, on the driver, and the digest of its bytes is part of the stage's
identity. So a changed file gives a new label system, and so does a machine without WordNet.
"""

from __future__ import annotations

from collections.abc import Iterable

import fsspec
import numpy as np
from pydantic import Field

from ram_ray.captions.boilerplate import digest_of_list, reasons, verbs
from ram_ray.captions.lemmas import PART_OF_SPEECH, Lemmatizer
from ram_ray.config import RunConfig
from ram_ray.labels.build import BuildOptions
from ram_ray.labels.edits import Edits, read_edits
from ram_ray.labels.embeddings import read_vectors
from ram_ray.labels.names import Key, read_names
from ram_ray.labels.synonyms import Synonyms, read_synonyms, shipped_synonyms
from ram_ray.labels.wordnet import WordNet
from ram_ray.runtime.input_file import InputFile
from ram_ray.settings.data import LabelSet
from ram_ray.settings.labels import LabelsConfig
from ram_ray.settings.section import RUNTIME_ONLY, StageSettings


class LabelSystemSettings(StageSettings):
    """All that a label system depends on, beside the counts of names and the vectors of the run's text encoder."""

    max_labels: int
    min_count: int
    min_name_count: int
    min_sources: int
    spread: float
    min_share: float
    kinds: tuple[str, ...]
    human_labels: tuple[LabelSet, ...]  # their names become labels too
    system: InputFile | None
    added: InputFile | None  # labels that follow those of `system`
    stop: InputFile | None
    boilerplate: str | None  # digest of the shipped list; None: it is not used
    max_capitals: float
    synonyms: InputFile | None
    edits: InputFile | None
    shipped: str  # digest of the shipped synonyms
    wordnet: InputFile | None  # its `uri` is the setting
    misses_wordnet: bool = Field(json_schema_extra=RUNTIME_ONLY)  # it is used where it is installed, and is not
    vectors: InputFile | None
    templates: tuple[str, ...] | None  # prompts for the run's text encoder; None: it is not asked
    similarity: float
    match: bool
    match_agreement: float
    max_caption_chars: int

    @classmethod
    def from_config(cls, config: RunConfig, *, run_uri: str | None) -> LabelSystemSettings:
        """Take the settings out of the configuration of the run, and read the digests of all files.

        Args:
            config: of the run.
            run_uri: the run's folder, which may hold edits; None: no run.

        Returns:
            The settings; two builds from equal counts and equal settings give equal label systems.

        Raises:
            ValueError: if a file that the configuration names cannot be read.
        """
        labels = config.labels
        wordnet, by_run = WordNet.find(labels.wordnet), labels.embeddings == "represent"
        return cls(
            max_labels=labels.max_labels,
            min_count=labels.min_count,
            min_name_count=labels.min_name_count,
            min_sources=labels.min_sources,
            spread=labels.spread,
            min_share=labels.min_share,
            kinds=tuple(labels.kinds),
            human_labels=config.data.label_sets,
            system=InputFile.find(labels.system),
            added=InputFile.find(labels.add),
            stop=InputFile.find(labels.stop),
            boilerplate=digest_of_list() if labels.boilerplate else None,
            max_capitals=labels.max_capitals,
            synonyms=InputFile.find(labels.synonyms),
            edits=InputFile.find(find_edits(labels, run_uri)),
            shipped=shipped_synonyms().digest,
            wordnet=InputFile(uri=labels.wordnet, digest=wordnet.digest) if wordnet else None,
            misses_wordnet=wordnet is None and labels.wordnet == "auto",
            vectors=None if by_run else InputFile.find(labels.embeddings),
            templates=config.model.templates if by_run else None,
            similarity=labels.similarity,
            match=labels.match,
            match_agreement=labels.match_agreement,
            max_caption_chars=labels.max_caption_chars,
        )


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
    settings: LabelSystemSettings,
    names: Iterable[Key],
    *,
    lemmas: Lemmatizer | None = None,
    vectors: dict[str, np.ndarray] | None = None,
    capitals: dict[Key, float] | None = None,
) -> BuildOptions:
    """Read all files that the settings name.

    Args:
        settings: of the stage.
        names: counted names; dictionary forms and vectors are looked up for these only.
        lemmas: tables of dictionary forms; None: inflections are not merged.
        vectors: name -> (D,), where the vectors come from the run's own encoder.
        capitals: (name, kind) -> share of its mentions inside sentences that have a capital.

    Returns:
        The options of `build`.

    Raises:
        ValueError: if a file cannot be read or has the wrong format.
    """
    names = list(names)
    if vectors is None and settings.vectors:
        vectors = read_vectors(settings.vectors.uri, (name for name, _ in names))
    return BuildOptions(
        max_labels=settings.max_labels,
        min_count=settings.min_count,
        min_sources=settings.min_sources,
        spread=settings.spread,
        min_share=settings.min_share,
        kinds=settings.kinds,
        stop=frozenset(read_names(settings.stop.uri, setting="labels.stop") if settings.stop else ()),
        boilerplate=reasons() if settings.boilerplate else {},
        verbs=verbs() if settings.boilerplate else frozenset(),
        capitals=capitals or {},
        max_capitals=settings.max_capitals,
        edits=read_edits(settings.edits.uri) if settings.edits else Edits(),
        shipped=shipped_synonyms(),
        synonyms=read_synonyms(settings.synonyms.uri) if settings.synonyms else Synonyms(),
        lemma=dictionary_forms(names, lemmas) if lemmas else {},
        senses=WordNet.find(settings.wordnet.uri) if settings.wordnet else None,
        vectors=vectors or {},
        similarity=settings.similarity,
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
