"""Results of the stages about evaluation sets and held-out labels; `results` has those of all others."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ram_ray.records import Json
from ram_ray.results import LabelSystemResult
from ram_ray.runtime.artifacts import Folder, StageResult


class HeldOutLabels(LabelSystemResult):
    """The label system without the labels that are held out; `uri` is what trainings see, `labels` counts these."""

    held_out: int  # labels
    compounds: int  # pairs of an attribute and a noun, which are no labels
    captions: Literal["drop", "keep"]  # what becomes of training captions that name them

    @property
    def all_uri(self) -> str:
        """URI of the label system with the held-out labels, whose ids are others."""
        return f"{self.path}/all_labels.json"

    @property
    def held_out_uri(self) -> str:
        """URI of a label system of what is held out."""
        return f"{self.path}/held_out_labels.json"


class PreparedSet(StageResult):
    """An evaluation set; its folder has rows and the manifest of `sets.prepare.EvalSet`."""

    folder: ClassVar[Folder] = "evaluation"

    set_name: str
    images: int
    rejected: int
    classes: int
    left_out: int  # classes


class SetFigures(BaseModel):
    """A model on a set, with one way to ask for classes that are no labels; 0 to 1, None where there is nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: int = 0  # that mAP is a mean over
    matched_by: dict[str, int] = {}  # how classes are answered
    unsupported: int = 0  # classes
    mAP: float | None = None  # noqa: N815 (the usual name)
    interval: tuple[float, float] | None = None  # 95%, of mAP
    mean_prevalence: float | None = None  # the mAP of random scores
    precision: float | None = None  # this and the next two: means over classes, at the best threshold for all
    recall: float | None = None
    f1: float | None = None
    threshold: float | None = None


class SetScore(StageResult):
    """A model on an evaluation set; summary.json has the figures of each class."""

    folder: ClassVar[Folder] = "evaluation"

    model: str  # digest
    model_stage: str
    set_name: str
    images: int
    figures: dict[str, SetFigures]  # by the texts of label queries: templates, descriptions
    difference: Json | None  # of mAP, descriptions against templates, with a paired test

    @property
    def summary(self) -> str:
        """URI of summary.json: the same names -> the dict of `measures.summarise_figures`."""
        return f"{self.path}/summary.json"
