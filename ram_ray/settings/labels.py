"""Settings of the label system's making, each beside its meaning; the section `labels` of a run's configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ram_ray.settings.section import Section


class LabelsConfig(Section):
    """Captions to tags to a label system (paper, section 3.1)."""

    parser: str = "en_ud_ewt"  # the shipped spaCy pipeline, or the name or path of any installed one
    max_labels: int = Field(4585, ge=1)
    min_count: int = Field(5, ge=1)  # captions that must name a tag before it becomes a label
    min_sources: int = Field(1, ge=1)  # sources of captions that must name it
    spread: float = Field(0.5, ge=0, le=1)  # how much being named by all sources counts, beside being named often
    min_share: float = Field(0.02, ge=0, lt=1)  # a name so much rarer in one kind than in another is misread
    kinds: list[Literal["object", "scene", "attribute", "action"]] = ["object", "scene", "attribute", "action"]
    max_caption_chars: int = Field(1000, ge=1)
    system: str | None = (
        None  # a ready label system or list: its labels and ids as they are; captions only add synonyms
    )
    stop: str | None = None  # file of names that are no labels, one a line
    synonyms: str | None = None  # file of names with one meaning; its form: ram_ray/labels/synonyms.py
    edits: str | None = None  # hand edits, YAML (ram_ray/labels/edits.py); None: RUN/label_edits.yaml, if it is there
    wordnet: str = "auto"  # "auto": where Debian puts it, if it is there; "none"; or the folder of its index files
    embeddings: str | None = None  # file of vectors of names, or "represent" for the run's own text encoder
    similarity: float = Field(0.95, gt=0, le=1)  # cosine over which two names are one label
    match: bool = True  # also find labels in captions by their words, beside the parse
    match_agreement: float = Field(0.75, ge=0, le=1)  # share of a word's captions in which the parse must agree
