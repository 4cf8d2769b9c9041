"""Settings of what is read: the drawn scenes, the shards and the checks of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ram_ray.settings.section import Section


@dataclass(frozen=True)
class Limits:
    """What makes an image usable. Pillow's own bound of 179 million pixels holds as well."""

    min_side: int  # pixels of the shorter side
    max_pixels: int
    max_bytes: int


class DrawnConfig(Section):
    """The embedded corpus of drawn scenes (`ram_ray.drawn_scenes`)."""

    num_web: int = Field(8000, ge=1)  # scenes whose captions leave out and invent things
    num_clean: int = Field(1000, ge=0)  # scenes whose captions are complete: the finetuning set
    num_eval: int = Field(1000, ge=1)  # held-out scenes, with labels
    scenes_per_shard: int = Field(1000, ge=1)
    image_size: int = Field(64, ge=32)
    unsaid: float = Field(0.35, ge=0, le=1)  # share of what is drawn that a web caption leaves out
    false: float = Field(0.1, ge=0, le=0.5)  # share of a web caption's tags that are not drawn
    level: Literal["plain", "hard"] = "plain"  # hard: small, overlapping, any colour on any background


class MeasureConfig(Section):
    """For measuring the data engine on photos (`ram_ray.data.measure`); a real run hides and spoils nothing."""

    captions_per_image: int | None = Field(None, ge=1)  # trained on; the tags of all captions are the truth
    planted: float = Field(0.0, ge=0, le=1)  # false tags planted, as a share of the captions' tags

    @property
    def on(self) -> bool:
        """Whether the captions' tags are to be kept as the truth."""
        return self.captions_per_image is not None or self.planted > 0


class DataConfig(Section):
    """Where the pictures and captions are, and what makes a row usable."""

    train: list[str] = []  # URIs or globs; empty: the drawn scenes
    eval: list[str] = []
    shard_folders: int = Field(1, ge=0)  # of the folders above a shard, those that are a part of its name: "coco/00000"
    drawn: DrawnConfig = DrawnConfig()
    check: Literal["decode", "header"] = "header"
    min_side: int = Field(32, ge=1)  # pixels
    max_pixels: int = Field(50_000_000, ge=1)
    max_bytes: int = Field(50_000_000, ge=1)
    rows_per_block: int = Field(512, ge=1)  # images that one task reads and decodes
    measure: MeasureConfig = MeasureConfig()

    def limits(self, *, min_side: int | None = None) -> Limits:
        """What makes an image usable.

        Args:
            min_side: pixels of the shorter side, instead of the field; 1 where an image is tagged, however small.
        """
        return Limits(self.min_side if min_side is None else min_side, self.max_pixels, self.max_bytes)
