"""Results of the stages that evaluate, prepare evaluation sets or hold labels out; `results` has all others."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ram_ray.records import Json
from ram_ray.results import LabelSystemResult
from ram_ray.runtime.artifacts import Folder, StageResult


class Evaluation(StageResult):
    """The scores of a model on labelled images; averages over tags, 0 to 1, None without tags."""

    folder: ClassVar[Folder] = "evaluation"

    model: str  # digest
    images: int
    num_tags: int
    mAP: float | None  # noqa: N815 (the usual name)
    mean_prevalence: float | None
    precision: float | None
    recall: float | None
    micro_precision: float
    micro_recall: float

    @property
    def summary(self) -> str:
        """URI of summary.json, the dict of `metrics.summarise`."""
        return f"{self.path}/summary.json"


class TagShares(BaseModel):
    """What the data engine did, as shares, 0 to 1 (`data_engine.statistics`); None where nothing can be divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    added_precision: float | None
    recovered: float | None
    false_removed: float | None
    true_removed: float | None
    mentioned_false_removed: float | None
    mentioned_true_removed: float | None


class TagStatistics(StageResult):
    """The tags of annotations, counted by tag, source and status."""

    folder: ClassVar[Folder] = "evaluation"

    images: int
    shares: TagShares
    objects: TagShares  # the same for tags of the kind object


class SampleImages(StageResult):
    """The images of the data engine's page."""

    folder: ClassVar[Folder] = "evaluation"

    images: int  # that are shown
    thumbnails: int  # crops and whole images


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
