"""Settings of what is taken out of the data before training: duplicates, copies of held-out images, and filters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ram_ray.settings.section import Section

Sameness = Literal["url", "sha256", "bytes", "pixels"]


class DuplicatesConfig(Section):
    """When rows show the same image, and which of them stays (`docs/duplicates.md`)."""

    same: list[Sameness] = Field(
        ["url", "sha256", "bytes", "pixels"],
        description=(
            "Rows that agree in one of these are one image: the url or sha256 that the data states, or the bytes or "
            "decoded pixels, which are read. Empty: no rows are united."
        ),
    )
    near: int | None = Field(
        8,
        ge=0,
        le=12,
        description="Most bits, of 63, in which the perceptual hashes of near duplicates differ. `null`: none.",
    )
    mirrored: bool = Field(True, description="Whether a mirrored image is a near duplicate.")
    in_training: Literal["leave_out", "keep"] = Field(
        "leave_out",
        description="What becomes of a near duplicate inside the training data, and of a copy in another source.",
    )
    of_eval: Literal["leave_out", "keep"] = Field(
        "leave_out", description="What becomes of a training image that is a duplicate of a held-out image."
    )
    prefer: list[str] = Field(
        [],
        max_length=6,
        description=(
            "Globs of shards: of copies, the one in a shard of an earlier glob stays. Empty: `finetune.shards`."
        ),
    )
    max_rows: int = Field(
        500,
        ge=2,
        description="A training image of more rows is a placeholder, such as a site's error image: all are left out.",
    )

    @property
    def is_enabled(self) -> bool:
        """Whether rows are compared at all."""
        return bool(self.same) or self.near is not None

    @property
    def reads_images(self) -> bool:
        """Whether images are read to compare them."""
        return self.near is not None or not {"bytes", "pixels"}.isdisjoint(self.same)


class FiltersConfig(Section):
    """Which images and captions are not trained on; a filter that is not set is off. Held-out data is not filtered."""

    max_aspect: float | None = Field(None, ge=1, description="Most of longer side / shorter side (`aspect_ratio`).")
    min_sharpness: float | None = Field(
        None, gt=0, lt=1, description="Least sharpness, 0 to 1, as CleanVision scores it: 0.29 there (`blurred`)."
    )
    min_brightness: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Least brightness of the brightest hundredth, as CleanVision scores it: 0.32 there (`dark`).",
    )
    opt_out: str | None = Field(
        None,
        description="File of urls, sha256 sums and hosts whose images are not used, one a line (`opted_out`).",
    )
    min_caption_words: int | None = Field(None, ge=1, description="Least words of a caption (`caption_length`).")
    max_caption_words: int | None = Field(None, ge=1, description="Most words of a caption (`caption_length`).")
    english: bool = Field(False, description="Whether captions in other languages are left out (`language`).")
    watermark: list[str] = Field(
        [], description="Words or phrases; a caption with one of them is left out (`watermark`)."
    )

    @property
    def reads_images(self) -> bool:
        """Whether images are decoded to filter them."""
        return self.min_sharpness is not None or self.min_brightness is not None

    @property
    def of_images(self) -> bool:
        """Whether a filter of images is set."""
        return self.reads_images or any((self.max_aspect, self.opt_out))

    @property
    def of_captions(self) -> bool:
        """Whether a filter of captions is set."""
        return bool(self.min_caption_words or self.max_caption_words or self.english or self.watermark)
