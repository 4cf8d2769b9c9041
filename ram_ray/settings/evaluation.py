"""Settings of the stage `evaluate`: what models are scored on, and the labels that no training sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ram_ray.settings.section import RUNTIME_ONLY, Section


class EvaluateConfig(Section):
    """Scoring on labelled shards (or, if they have no labels, against the tags of their captions).

    Precision and recall are counted at the thresholds that the model is served with: each label's own, else
    `model.threshold`.
    """

    min_positives: int = Field(1, ge=1, description="Tags with fewer positives are not part of mAP.")
    batch_size: int = Field(64, ge=1, json_schema_extra=RUNTIME_ONLY, description="Images of one batch.")
    sets: list[str] = Field(
        [],
        description=(
            "Named evaluation sets, `NAME=FILE[,option=value...]` (`docs/benchmarks.md`), each scored by itself after "
            "each training. `--eval` sets it by values of this form."
        ),
    )
    replicates: int = Field(
        1000, ge=0, description="Replicates of the bootstrap over images, for the intervals of named sets."
    )
    descriptions: str | None = Field(
        None,
        description=(
            "JSON file of texts that describe classes, by name: named sets and held-out labels are scored a second "
            "time with these in place of `model.templates`."
        ),
    )
    hold_out_labels: list[str] | int = Field(
        [],
        description=(
            "Labels that no training sees, and that are scored by label queries: names, also of an attribute and a "
            "noun (`red umbrella`), or how many are drawn by the seed."
        ),
    )
    hold_out_compounds: int = Field(
        0, ge=0, description="Pairs of an attribute and a noun of captions that are drawn and scored in the same way."
    )
    hold_out_min_positives: int = Field(
        10, ge=1, description="Least positives in the evaluation data of what is drawn to be held out."
    )
    hold_out_captions: Literal["drop", "keep"] = Field(
        "drop",
        description=(
            "Captions that name a held-out label: `drop` trains on none of them, `keep` lets the captioner learn the "
            "words."
        ),
    )

    @field_validator("hold_out_labels")
    @classmethod
    def _check_number(cls, value: list[str] | int) -> list[str] | int:
        if isinstance(value, int) and value < 0:
            raise ValueError("write how many labels are held out, 0 or more, or a list of their names")
        return value

    @property
    def holds_out(self) -> bool:
        """Whether any label is held out."""
        return bool(self.hold_out_labels) or self.hold_out_compounds > 0
