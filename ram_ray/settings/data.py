"""Settings of the input: the drawn scenes, the shards and the checks of a row."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, field_validator

from ram_ray.settings.curation import CurationEncoderConfig, DuplicatesConfig, FiltersConfig
from ram_ray.settings.section import Section

LabelKind = Literal["none", "positive", "partial", "complete"]
LABEL_KINDS: tuple[str, ...] = get_args(LabelKind)

MAX_PIXELS = 50_000_000
"""Most pixels of an image, wherever it comes from: shards, files, the command line, `Predictor`, HTTP.

The largest photos of most phones have fewer (8160 x 6120). Decoded to RGB it is 150 MB, and four times that while
transparency is flattened, in each of a server's or a node's decoding threads; 100 million would be too much for both.
A larger JPEG is decoded at a fraction (`data.images.DRAFTED`).
It is the default of `data.max_pixels`, which the command line and `Predictor` use, and of `serve.max_pixels`. An image
that is already decoded, a PIL image or an array, has no limit.
"""


@dataclass(frozen=True)
class Limits:
    """Limits of a usable image; `data.images.PILLOW_PIXELS` also holds."""

    min_side: int  # pixels of the shorter side, at least
    max_pixels: int
    max_bytes: int


IMAGE_EXTENSIONS = (
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "png",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "heic",
    "heif",
    "hif",
    "avif",
)
CAPTION_EXTENSIONS = ("txt", "caption", "cap", "text")


class LayoutConfig(Section):
    """How images and captions lie in archives, folders and tables; the defaults read what is usual."""

    image_extensions: tuple[str, ...] = Field(
        IMAGE_EXTENSIONS, description="Endings of image files; a file without an ending is read if it begins as one."
    )
    caption_extensions: tuple[str, ...] = Field(
        CAPTION_EXTENSIONS, description="Endings of caption files; `.json` is always one."
    )
    image_columns: tuple[str, ...] = Field(
        (), description="Columns or fields of images or their paths; the first that is there counts. None: usual names."
    )
    caption_columns: tuple[str, ...] = Field(
        (), description="Columns or fields of captions, all of which are read. None: usual names."
    )
    key_end: Literal["first_dot", "last_dot"] = Field(
        "first_dot", description="Where the key ends in a tar: `22.01.jpg` is `22` (WebDataset's rule) or `22.01`."
    )
    caption_lines: bool = Field(False, description="Each line of a caption file is a caption.")
    encoding: str = Field("utf-8", description="Encoding of caption files, CSV, TSV and Parquet's captions.")

    @field_validator("image_extensions", "caption_extensions")
    @classmethod
    def _check_extensions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in value)

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"{value!r} is no encoding that Python knows; write utf-8, latin-1 or cp1252") from None

    @property
    def image_suffixes(self) -> tuple[str, ...]:
        """Endings of image files, with their dots."""
        return tuple(f".{extension}" for extension in self.image_extensions)


class DrawnConfig(Section):
    """The embedded corpus of drawn scenes (`ram_ray.drawn_scenes`)."""

    num_web: int = Field(8000, ge=1, description="Number of scenes whose captions omit tags and invent others.")
    num_clean: int = Field(1000, ge=0, description="Number of scenes whose captions are complete: the finetuning set.")
    num_eval: int = Field(1000, ge=1, description="Number of held-out scenes, with labels.")
    scenes_per_shard: int = Field(1000, ge=1, description="Scenes in one shard.")
    image_size: int = Field(64, ge=32, description="Side of a scene in pixels.")
    unmentioned: float = Field(
        0.35, ge=0, le=1, description="Share of the true tags that a web caption does not mention."
    )
    false: float = Field(0.1, ge=0, le=0.5, description="Share of a web caption's tags that are false.")
    level: Literal["plain", "hard"] = Field(
        "plain", description="`hard`: things are small, overlap, and have any colour on any background."
    )


class MeasureConfig(Section):
    """To measure the data engine on photos (`ram_ray.data.hidden_captions`); other runs hide and plant nothing."""

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
    def is_enabled(self) -> bool:
        """Whether the tags of all captions are kept as the truth."""
        return self.captions_per_image is not None or self.planted > 0


class LabelSet(Section):
    """Shards whose human labels are trained on, and what an unlisted label means there."""

    shards: str = Field(description="Glob of shards, as in `pretrain.shards`.")
    kind: LabelKind = Field(description="What their human labels teach, see `data.human_labels`.")


class DataConfig(Section):
    """Where the images and captions are, and which rows are usable."""

    train: list[str] = Field([], description="Paths, globs or URIs of training shards. None: the drawn scenes.")
    eval: list[str] = Field(
        [],
        description=(
            "Paths, globs or URIs of held-out shards. None: the held-out shards of the drawn scenes if these are used, "
            "else nothing is scored."
        ),
    )
    shard_folders: int = Field(
        1, ge=0, description="Folders above a shard that are a part of its name: with 1 it is `coco/00000`."
    )
    images: str | None = Field(
        None, description="Folder that the image paths of JSON lists, COCO files and tables start from. `null`: theirs."
    )
    human_labels: LabelKind | dict[str, LabelKind] = Field(
        "none",
        description=(
            "What human labels of training shards teach: nothing (they score), or tags; `docs/data-formats.md` says "
            "what an unlisted label means. Or a mapping from globs of shards to these words."
        ),
    )
    drawn: DrawnConfig = Field(DrawnConfig(), description="The embedded corpus of drawn scenes.")
    check: Literal["decode", "header"] = Field(
        "header",
        description="How the stage `shards` checks an image: `decode` reads it whole, `header` its first bytes.",
    )
    layout: LayoutConfig = Field(LayoutConfig(), description="How images and captions lie in their files.")
    min_side: int = Field(32, ge=1, description="An image whose shorter side has fewer pixels is rejected.")
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="An image with more pixels is rejected, a JPEG with 8 times more."
    )
    max_bytes: int = Field(50_000_000, ge=1, description="An image with more bytes is rejected.")
    rows_per_block: int = Field(
        512, ge=1, description="Images that one task reads and decodes. The result does not depend on it."
    )
    duplicates: DuplicatesConfig = Field(
        DuplicatesConfig(), description="Rows of one image, near duplicates, and copies of held-out images."
    )
    encoder: CurationEncoderConfig = Field(
        CurationEncoderConfig(), description="The model of `filters.min_similarity` and `duplicates.embedding`."
    )
    filters: FiltersConfig = Field(FiltersConfig(), description="Which images and captions are not trained on.")
    measure: MeasureConfig = Field(MeasureConfig(), description="To measure the data engine on photos.")

    @field_validator("human_labels", mode="before")
    @classmethod
    def _check_human_labels(cls, value: object) -> object:
        kinds = list(value.values()) if isinstance(value, dict) else [value]
        if wrong := [kind for kind in kinds if kind not in LABEL_KINDS]:
            raise ValueError(
                f"{wrong[0]!r} is not one of {', '.join(LABEL_KINDS)}; write one of them, or a mapping from globs of "
                "shards to them"
            )
        return value

    @property
    def label_sets(self) -> tuple[LabelSet, ...]:
        """The shards whose human labels `human_labels` names, in its order; empty if nothing is trained on them."""
        kinds = self.human_labels if isinstance(self.human_labels, dict) else {"*": self.human_labels}
        if set(kinds.values()) <= {"none"}:
            return ()
        return tuple(LabelSet(shards=shards, kind=kind) for shards, kind in kinds.items())

    def limits(self, *, min_side: int | None = None) -> Limits:
        """The limits of a usable image.

        Args:
            min_side: least pixels of the shorter side, instead of the field; 1 to tag images of any size.

        Returns:
            The limits.
        """
        return Limits(self.min_side if min_side is None else min_side, self.max_pixels, self.max_bytes)
