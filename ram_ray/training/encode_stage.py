"""The stage `encode`: the tokens of a few fixed crops of every image, for trainings whose image encoder is frozen.

A frozen encoder gives the same tokens for the same crop, and on a CPU it is most of a step. So with `views` in the
section of a training each image is encoded in that many crops, once a run: epoch e learns from crop e modulo `views`.
Trainings with the same crops share the stage.

    SAMPLE rows -> ViewEncoder actors (read, crop, encode) -> VIEWS rows, and tokens/*.bin

A file of tokens has those of a block of rows, and is read by byte range as images are.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.data.images import Limits, decode
from ram_ray.records import Reject, Row, to_table
from ram_ray.results import EncodedViews, Samples
from ram_ray.runtime.actors import model_actors
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.annotate import annotate, write_rejected
from ram_ray.runtime.artifacts import Run, write_bytes
from ram_ray.runtime.rows import Counted
from ram_ray.settings.models import TimmConfig
from ram_ray.settings.section import StageSettings
from ram_ray.settings.training import AugmentConfig, TrainConfig
from ram_ray.training.augment import train_crop
from ram_ray.training.image_columns import pack_tokens, read_contents
from ram_ray.training.rows import IMAGE_LOCATION

if TYPE_CHECKING:
    import torch

VIEWS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("images", pa.list_(IMAGE_LOCATION)),  # of the tokens of each view; empty for a rejected row
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
IMAGES_AT_ONCE = 16  # rows that an actor encodes at once


class EncodeSettings(StageSettings):
    """All that the tokens of the views depend on."""

    image_encoder: TimmConfig
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    views: int
    augment: AugmentConfig
    seed: int
    precision: Literal["auto", "fp32", "bf16"]

    @classmethod
    def from_config(cls, config: RunConfig, train: TrainConfig) -> EncodeSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            train: section of a training with `views`.

        Returns:
            The settings.
        """
        from ram_ray.models.pretrained import training_fields

        assert train.views
        fields = training_fields(config.model, image_size=train.image_size, window_size=train.window_size)
        return cls(
            image_encoder=fields["image_encoder"],
            image_size=train.image_size,
            mean=fields["mean"],
            std=fields["std"],
            views=train.views,
            augment=train.augment,
            seed=config.seed,
            precision=config.training.precision,
        )


class ViewEncoder:
    """Actor: SAMPLE rows -> VIEWS rows; the tokens of a block are written to one file.

    Args:
        settings: of the stage.
        folder: URI of the files of tokens.
        limits: of a usable image.
        device: torch device.
        threads: torch threads on a CPU.
    """

    def __init__(
        self, settings: EncodeSettings, folder: str, *, limits: Limits, device: str, threads: int | None
    ) -> None:
        import torch

        from ram_ray.models.image_encoder import ImageEncoder
        from ram_ray.models.number_format import choose_precision
        from ram_ray.models.pretrained import load_pretrained

        prepare_model_process(device, threads=threads)
        self.settings, self._folder, self._limits = settings, folder, limits
        encoder = ImageEncoder(settings.image_encoder, image_size=settings.image_size)
        load_pretrained(encoder)
        encoder.freeze()
        self._encoder = encoder.eval().to(device)
        self._device = torch.device(device)
        self._is_bf16 = choose_precision(settings.precision, device) == "bf16"

    def __call__(self, block: pa.Table) -> pa.Table:
        """Encode the images of a block.

        Args:
            block: SAMPLE rows.

        Returns:
            A VIEWS row for each.
        """
        rows: list[Row] = block.select(["key", "shard", "uri", "offset", "nbytes"]).to_pylist()
        names = hashlib.blake2b("\n".join(row["key"] for row in rows).encode(), digest_size=8).hexdigest()
        uri, parts, end = f"{self._folder}/{names}.bin", [], 0
        views = []
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            some = rows[start : start + IMAGES_AT_ONCE]
            for row, tokens in zip(some, self._encode(some), strict=True):
                view: Row = {"key": row["key"], "shard": row["shard"], "images": [], "reason": None, "detail": None}
                if isinstance(tokens, Reject):
                    view.update(reason=tokens.reason, detail=tokens.detail)
                else:
                    for data in map(pack_tokens, tokens):
                        view["images"].append({"uri": uri, "offset": end, "nbytes": len(data)})
                        parts.append(data)
                        end += len(data)
                views.append(view)
        if parts:
            write_bytes(uri, b"".join(parts))
        return to_table(views, VIEWS)

    def _encode(self, rows: list[Row]) -> list[list[np.ndarray] | Reject]:
        """The tokens of each row, V times float16 (1 + L, C), or why its image cannot be read."""
        config, size = self.settings, self.settings.image_size
        rejects: dict[str, Reject] = {}
        crops: list[np.ndarray] = []
        for row, (content,) in zip(rows, read_contents([[row] for row in rows]), strict=True):
            try:
                if isinstance(content, Reject):
                    raise content
                image = decode(content, limits=self._limits, size=size)
            except Reject as reject:
                rejects[row["key"]] = reject
                continue
            seeds = [f"{config.seed}/view/{view}/{row['key']}" for view in range(config.views)]
            crops += [train_crop(image, size=size, config=config.augment, seed=seed) for seed in seeds]
        tokens = iter(self._tokens(np.stack(crops)) if crops else ())
        return [rejects.get(row["key"]) or [next(tokens) for _ in range(config.views)] for row in rows]

    def _tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Tokens float16 (B, 1 + L, C) of crops uint8 (B, S, S, 3)."""
        import torch

        from ram_ray.models.image_encoder import normalise

        config = self.settings
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16),
        ):
            on_device: torch.Tensor = torch.from_numpy(pixels).to(self._device)
            tokens = self._encoder(normalise(on_device, config.mean, config.std)).float()
        return tokens.clamp(-65504, 65504).half().cpu().numpy()


def token_shape(settings: EncodeSettings) -> tuple[int, int]:
    """Compute the shape of a view's tokens; nothing is encoded.

    Args:
        settings: of the stage.

    Returns:
        (1 + L, C).
    """
    from ram_ray.models.image_encoder import count_tokens

    return count_tokens(settings.image_encoder, settings.image_size)


def encode_views(run: Run, config: RunConfig, train: TrainConfig, samples: Samples) -> EncodedViews:
    """Run the stage `encode` for the crops of a training.

    Args:
        run: the run that gets the stage's folder.
        config: of the run.
        train: section of a training with `views`.
        samples: the images.

    Returns:
        The VIEWS rows.
    """
    settings, execution = EncodeSettings.from_config(config, train), config.execution
    stage = run.stage("encode", EncodedViews, settings=settings, inputs=[samples])
    if stage.result:
        return stage.result
    on_gpu = execution.resources.actor_gpus > 0

    counts = annotate(
        stage,
        lambda dataset: dataset.map_batches(
            ViewEncoder,
            fn_constructor_args=(settings, f"{stage.path}/tokens"),
            fn_constructor_kwargs={
                "limits": execution.limits,
                "device": "cuda" if on_gpu else "cpu",
                "threads": None if on_gpu else execution.resources.threads,
            },
            batch_format="pyarrow",
            batch_size=execution.rows_per_block,
            **model_actors(execution.resources),
        ),
        source=samples.path,
        schema=VIEWS,
        execution=execution,
        rows_in=samples.rows_out,
        count=Counted(_count, ("images", "reason")),
    )
    rows, rejected = int(counts["rows"]), int(counts["rejected"])
    assert rows == samples.rows_out, f"encode: {samples.rows_out} rows in, {rows} out"
    write_rejected(stage, execution=execution, num_rejected=rejected)
    return stage.finish(
        rows_in=rows,
        rows_out=rows - rejected,
        rejected=rejected,
        token_shape=token_shape(settings),
        nbytes=int(counts["nbytes"]),
    )


def _count(block: pa.Table) -> dict[str, float]:
    nbytes = sum(location["nbytes"] for images in block["images"].to_pylist() for location in images)
    return {"rows": len(block), "rejected": len(block) - block["reason"].null_count, "nbytes": nbytes}


def with_views(make_rows: Callable[[pa.Table], list[Row]], path: str) -> Callable[[pa.Table], list[Row]]:
    """Give training rows the locations of their tokens in place of that of their image.

    Args:
        make_rows: makes training rows of a block of annotations.
        path: folder of VIEWS rows.

    Returns:
        As `make_rows`, without the rows whose image could not be read: these are rejected rows of `encode`.
    """

    def rows(block: pa.Table) -> list[Row]:
        made = []
        for row in make_rows(block):
            images = _read_images(path, row["shard"])[row["key"]]
            if images:
                made.append({**row, "images": images})
        return made

    return rows


@functools.lru_cache(maxsize=2)
def _read_images(path: str, shard: str) -> dict[str, list[Row]]:
    """The locations of the views of a shard's rows, by key."""
    fs, root = fsspec.url_to_fs(f"{path}/shard={quote(shard, safe='')}")
    images: dict[str, list[Row]] = {}
    for file in fs.ls(root, detail=False):
        if file.endswith(".parquet"):
            with fs.open(file, "rb") as handle:
                table = pq.read_table(handle, columns=["key", "images"], partitioning=None)
            images |= dict(zip(table["key"].to_pylist(), table["images"].to_pylist(), strict=True))
    return images
