"""Settings of the label system: the section `labels` of a run's configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ram_ray.settings.section import Section


class LabelsConfig(Section):
    """Captions to tags to a label system (paper, section 3.1)."""

    parser: str = Field("en_ud_ewt", description="The shipped spaCy pipeline, or name or path of another.")
    max_labels: int = Field(4585, ge=1, description="Most labels of the label system.")
    min_count: int = Field(5, ge=1, description="Captions that must name a tag before it becomes a label.")
    min_name_count: int = Field(
        1,
        ge=1,
        description=(
            "Captions that must name a tag before it is counted, also as a synonym; at most `min_count`. From 2 on, "
            "rare names stay on the cluster, and the driver holds the others alone."
        ),
    )
    min_sources: int = Field(1, ge=1, description="Sources of captions that must name a tag before it becomes a label.")
    spread: float = Field(
        0.5, ge=0, le=1, description="Weight of the number of sources, beside the count of captions, in the ranking."
    )
    min_share: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="A name with less than this share of its count in another kind is taken for a parser error.",
    )
    kinds: list[Literal["object", "scene", "attribute", "action"]] = Field(
        ["object", "scene", "attribute", "action"], description="Kinds of tags that become labels."
    )
    max_caption_chars: int = Field(1000, ge=1, description="Longer captions are cut at the end of a word.")
    system: str | None = Field(
        None,
        description=(
            "A ready label system or list: its labels and ids stay as they are, and captions only add synonyms."
        ),
    )
    add: str | None = Field(
        None,
        description=(
            "List of labels that follow those of `system`, one a line: `name`, `name;synonym` or `kind:name`. Names "
            "that are there already are not added."
        ),
    )
    descriptions: str | None = Field(
        None,
        description=(
            "JSON file of texts that describe each label, by name, for `ram_plus`. `null`, or a label that it does not "
            "have: `model.templates`."
        ),
    )
    stop: str | None = Field(None, description="File of names that are no labels, one a line.")
    boilerplate: bool = Field(
        True, description="Whether the shipped list of words of web text that name nothing to be seen are no labels."
    )
    max_capitals: float = Field(
        0.8,
        ge=0,
        le=1,
        description=(
            "A name that more than this share of its mentions inside sentences writes with a capital is that of a "
            "person, a brand or a place, and no label. 1: not used."
        ),
    )
    synonyms: str | None = Field(
        None, description="File of names with one meaning; its form is described in `ram_ray/labels/synonyms.py`."
    )
    edits: str | None = Field(
        None,
        description=(
            "YAML file of hand edits (`ram_ray/labels/edits.py`). `null`: `RUN/label_edits.yaml`, if it is there."
        ),
    )
    wordnet: str = Field(
        "auto",
        description="`auto`: where Debian installs WordNet, if it is there; `none`; or the folder of its index files.",
    )
    embeddings: str | None = Field(
        None,
        description=(
            "File of vectors of names, or `represent` for the run's own text encoder. `null`: names do not merge "
            "by vectors."
        ),
    )
    similarity: float = Field(0.95, gt=0, le=1, description="Cosine above which two names are one label.")
    match: bool = Field(True, description="Whether labels are also found in captions by their words, beside the parse.")
    match_agreement: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of a word's captions in which the parse must agree before the word alone gives the label.",
    )

    @model_validator(mode="after")
    def _check_add(self) -> LabelsConfig:
        if self.add and not self.system:
            raise ValueError(
                f"add {self.add!r} needs the labels that it is added to: set labels.system to the label_system.json of "
                "a bundle, or to a list"
            )
        return self

    @model_validator(mode="after")
    def _check_counts(self) -> LabelsConfig:
        if self.min_name_count > self.min_count:
            raise ValueError(
                f"min_count {self.min_count} is below min_name_count {self.min_name_count}, so names of fewer captions "
                "would be no labels all the same; set labels.min_name_count to it or lower"
            )
        return self
