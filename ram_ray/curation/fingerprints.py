"""The step `fingerprints`: what each image is compared by, and the filters of images.

An image is read here once for all: its bytes and its pixels are hashed, its signature is made, and where filters ask
for it, sharpness and brightness are scored. Where nothing asks for bytes, none are read: a url and a sum that the data
states are hashed alone. Rows whose image cannot be decoded are rejected, with the usual reasons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from ram_ray.config import RunConfig
from ram_ray.curation.filters import check_pixels, check_row, read_opt_out
from ram_ray.curation.perceptual_hash import make_signature
from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.records import FINGERPRINT, Reject, Row, to_table
from ram_ray.results import Fingerprints, Samples
from ram_ray.runtime.annotate import annotate, caption_rows_per_block, reject_counted
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.input_file import InputFile
from ram_ray.settings.curation import FiltersConfig, Sameness
from ram_ray.settings.section import StageSettings

ROWS_AT_ONCE = 32  # images whose bytes are held at once


class FingerprintSettings(StageSettings):
    """All that the fingerprints depend on."""

    same: tuple[Sameness, ...]
    signature: bool
    max_aspect: float | None = None
    min_sharpness: float | None = None
    min_brightness: float | None = None
    opt_out: InputFile | None = None

    @classmethod
    def from_config(cls, config: RunConfig, *, held_out: bool) -> FingerprintSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            held_out: whether the images are not trained on: then they are not filtered.

        Returns:
            The settings.

        Raises:
            ValueError: if the opt-out list cannot be read.
        """
        filters, duplicates = FiltersConfig() if held_out else config.data.filters, config.data.duplicates
        return cls(
            same=tuple(sorted(duplicates.same)),
            signature=duplicates.near is not None,
            max_aspect=filters.max_aspect,
            min_sharpness=filters.min_sharpness,
            min_brightness=filters.min_brightness,
            opt_out=InputFile.find(filters.opt_out),
        )

    @property
    def filters(self) -> FiltersConfig:
        """The filters of images."""
        return FiltersConfig(
            max_aspect=self.max_aspect, min_sharpness=self.min_sharpness, min_brightness=self.min_brightness
        )

    @property
    def decodes(self) -> bool:
        """Whether images are decoded."""
        return self.signature or "pixels" in self.same or self.filters.reads_images

    @property
    def reads_images(self) -> bool:
        """Whether images are read."""
        return self.decodes or "bytes" in self.same


def add_fingerprints(block: pa.Table, settings: FingerprintSettings, *, limits: Limits) -> pa.Table:
    """Make the fingerprints of rows; a row whose image is filtered, or cannot be read, gets a reason.

    Args:
        block: SAMPLE rows.
        settings: of the step.
        limits: limits of sides, pixels and bytes.

    Returns:
        FINGERPRINT rows, one for each row of the block.
    """
    opt_out = read_opt_out(settings.opt_out.uri) if settings.opt_out else frozenset()
    rows = block.to_pylist()
    for row in rows:
        for name in ("url", "sha256"):
            if name in settings.same and row[name]:
                row[f"{name}_hash"] = hash_bytes(row[name].encode())
        try:
            check_row(row, settings.filters, opt_out=opt_out)
        except Reject as reject:
            row["reason"], row["detail"] = reject.reason, reject.detail
    if settings.reads_images:
        usable = [row for row in rows if row["reason"] is None]
        for row, content in zip(usable, _read(usable), strict=True):
            try:
                if isinstance(content, Reject):
                    raise content
                _read_image(row, content, settings, limits=limits)
            except Reject as reject:
                row["reason"], row["detail"] = reject.reason, reject.detail
    return to_table(rows, FINGERPRINT)


def hash_bytes(*parts: bytes) -> int:
    """Hash bytes to 64 bits.

    Args:
        parts: bytes, hashed one after the other.

    Returns:
        A number that fits int64.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def hash_pixels(image: Image.Image) -> int:
    """Hash the size and the pixels of an image.

    Args:
        image: RGB.

    Returns:
        A number that fits int64.
    """
    return hash_bytes(np.array(image.size, "<u4").tobytes(), image.tobytes())


def _read(rows: Sequence[Row]) -> Iterator[bytes | Reject]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        yield from read_bytes(*([row[name] for row in part] for name in ("uri", "offset", "nbytes")))


def _read_image(row: Row, content: bytes, settings: FingerprintSettings, *, limits: Limits) -> None:
    """Set the columns of a row that come from its image."""
    if "bytes" in settings.same:
        row["bytes_hash"] = hash_bytes(content)
    if not settings.decodes:
        return
    image = decode(content, limits=limits)
    check_pixels(image, settings.filters)
    if "pixels" in settings.same:
        row["pixels_hash"] = hash_pixels(image)
    if settings.signature:
        row["signature"] = make_signature(image)


def make_fingerprints(run: Run, config: RunConfig, samples: Samples, *, name: str = "fingerprints") -> Fingerprints:
    """Run the step `fingerprints`.

    Args:
        run: the run; the step's folder is created in it.
        config: of the run.
        samples: SAMPLE rows.
        name: of this step.

    Returns:
        The FINGERPRINT rows.

    Raises:
        ValueError: if no row is usable, or the opt-out list cannot be read.
    """
    settings = FingerprintSettings.from_config(config, held_out=samples.held_out)
    execution = config.execution
    stage = run.stage(name, Fingerprints, settings=settings, inputs=[samples])
    if stage.result:
        return stage.result
    limits = execution.limits

    def fingerprint(block: pa.Table) -> pa.Table:
        return add_fingerprints(block, settings, limits=limits)

    counts = annotate(
        stage,
        lambda dataset: dataset.map_batches(
            fingerprint, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
        ),
        source=samples.path,
        schema=FINGERPRINT,
        execution=execution,
        rows_in=samples.rows_out,
        rows_per_block=None if settings.reads_images else caption_rows_per_block(samples.rows_out, execution=execution),
    )
    rows, rejected = reject_counted(stage, counts, execution=execution)
    assert rows == samples.rows_out, f"{name}: {samples.rows_out} rows in, {rows} out"
    if rows == rejected:
        raise ValueError(
            f"{name}: none of the {rows} images can be used; see {run.path('rejected', name)}, and check data.filters"
        )
    return stage.finish(
        shards=samples.shards,
        rows_in=rows,
        rows_out=rows - rejected,
        rejected=rejected,
        images=rows - rejected,
        held_out=samples.held_out,
    )
