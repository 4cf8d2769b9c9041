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

    num_web: int = Field(8000, ge=1, description="Number of scenes whose captions leave things out and invent others.")
    num_clean: int = Field(1000, ge=0, description="Number of scenes whose captions are complete: the finetuning set.")
    num_eval: int = Field(1000, ge=1, description="Number of held-out scenes, with labels.")
    scenes_per_shard: int = Field(1000, ge=1, description="Scenes in one shard.")
    image_size: int = Field(64, ge=32, description="Side of a scene in pixels.")
    unsaid: float = Field(0.35, ge=0, le=1, description="Share of what is drawn that a web caption leaves out.")
    false: float = Field(0.1, ge=0, le=0.5, description="Share of a web caption's tags that are not drawn.")
    level: Literal["plain", "hard"] = Field(
        "plain", description="`hard`: things are small, overlap, and have any colour on any background."
    )


class MeasureConfig(Section):
    """For measuring the data engine on photos (`ram_ray.data.measure`); a real run hides and spoils nothing."""

    captions_per_image: int | None = Field(
        None,
        ge=1,
        description=(
            "Captions of an image to train on; the tags of all its captions are the truth. `null`: train on all."
        ),
    )
    planted: float = Field(
        0.0, ge=0, le=1, description="False tags that are planted, as a share of the captions' tags."
    )

    @property
    def on(self) -> bool:
        """Whether the captions' tags are to be kept as the truth."""
        return self.captions_per_image is not None or self.planted > 0


class DataConfig(Section):
    """Where the pictures and captions are, and what makes a row usable."""

    train: list[str] = Field([], description="Paths, globs or URIs of training shards. None: the drawn scenes.")
    eval: list[str] = Field(
        [],
        description=(
            "Paths, globs or URIs of held-out shards. None: with drawn scenes the held-out ones, else nothing is "
            "scored."
        ),
    )
    shard_folders: int = Field(
        1, ge=0, description="Folders above a shard that are a part of its name: with 1 it is `coco/00000`."
    )
    drawn: DrawnConfig = Field(DrawnConfig(), description="The embedded corpus of drawn scenes.")
    check: Literal["decode", "header"] = Field(
        "header",
        description="How the stage `shards` checks an image: `decode` reads it whole, `header` its first bytes.",
    )
    min_side: int = Field(32, ge=1, description="An image whose shorter side has fewer pixels is rejected.")
    max_pixels: int = Field(50_000_000, ge=1, description="An image with more pixels is rejected.")
    max_bytes: int = Field(50_000_000, ge=1, description="An image with more bytes is rejected.")
    rows_per_block: int = Field(512, ge=1, description="Images that one task reads and decodes.")
    measure: MeasureConfig = Field(MeasureConfig(), description="For measuring the data engine on photos.")

    def limits(self, *, min_side: int | None = None) -> Limits:
        """What makes an image usable.

        Args:
            min_side: pixels of the shorter side, instead of the field; 1 where an image is tagged, however small.
        """
        return Limits(self.min_side if min_side is None else min_side, self.max_pixels, self.max_bytes)
