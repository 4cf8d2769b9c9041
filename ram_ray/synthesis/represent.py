"""Represent: a dual encoder from the run's own pictures and captions, where no CLIP is at hand.

Two steps. `synthesize` draws pictures of captions beforehand and leaves them in tars with rows that say where
they lie (StableRep makes ten a caption). `train_dual_encoder` then trains image and text side together:

    loss = multi-positive contrastive over all pictures of a caption + w x image-text contrastive

A row of the training table is a caption with its pictures; a batch takes `pictures_per_caption` views of each:
different synthetic pictures, or different crops of a real one. (arXiv 2306.00984, sections 3.2 and 4.)

Letters: B captions in a batch, V views of each, S pixels, E embedding width, T tokens.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import Dataset
from torch import Tensor, nn

from ram_ray.annotate import annotate, read_rows, sum_blocks
from ram_ray.artifacts import Manifest, Run, Stage
from ram_ray.config import RepresentConfig, RunConfig
from ram_ray.data.images import Limits
from ram_ray.models.config import DualEncoderConfig
from ram_ray.models.dual_encoder import DualEncoder, Teacher
from ram_ray.models.image_encoder import normalise
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.synthesis.generators import make_generator
from ram_ray.synthesis.losses import ProjectionHead, gather, image_text_loss, multi_positive_loss
from ram_ray.training.feed import PICTURE, Feed, load_tokenizer
from ram_ray.training.trainer import count_steps, make_table, train
from ram_ray.training.worker import Job

SYNTHETIC = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("pictures", pa.list_(PICTURE)),
    ]
)


def represent(run: Run, config: RunConfig, samples: Manifest, vocabulary: Manifest) -> Manifest:
    """The dual encoder of this run: a CLIP by name, or one trained here. `counts["source"]` says where it is."""
    settings = config.represent
    named = bool(settings.clip)
    identity: dict[str, Any] = {"clip": settings.clip, "revision": settings.revision}
    if not named:
        swin = config.model.swin
        identity = {"represent": settings, "training": config.training, "swin": swin, "seed": config.seed}
    stage = run.stage("represent", kind="models", config=identity, inputs=[] if named else [samples, vocabulary])
    if stage.manifest:
        return stage.manifest
    if named:
        ray.get(ray.remote(num_cpus=config.resources.task_cpus)(_check_clip).remote(settings.clip, settings.revision))
        return stage.finish(source=settings.clip, revision=settings.revision)
    synthetic = synthesize(run, config, samples) if settings.images != "real" else None
    real = samples if settings.images != "synthetic" else None
    counts = train_dual_encoder(stage, run=config, real=real, synthetic=synthetic, tokenizer=vocabulary.path)
    return stage.finish(source=stage.path, revision=None, images=counts["images_seen"], **counts)


def _check_clip(source: str, revision: str | None) -> None:
    Teacher.from_pretrained(source, revision=revision)


def synthesize(run: Run, config: RunConfig, samples: Manifest) -> Manifest:
    """Pictures made of about `represent.num_captions` captions, chosen by hash."""
    settings, resources = config.represent, config.resources
    fields = {"generator", "generator_revision", "num_captions", "pictures_made"}
    identity = {
        "synthesis": settings.model_dump(include=fields),
        "size": settings.train.image_size,
        "seed": config.seed,
    }
    stage = run.stage("synthesize", kind="annotations", config=identity, inputs=[samples])
    if stage.manifest:
        return stage.manifest
    share = min(1.0, settings.num_captions / samples.counts["rows_out"])

    def choose(block: pa.Table) -> pa.Table:
        rows = zip(block["key"].to_pylist(), block["captions"].to_pylist(), strict=True)
        chosen = [bool(captions) and _digest(f"{config.seed}/{key}") < share * 2**64 for key, captions in rows]
        return block.filter(pa.array(chosen, pa.bool_()))

    def transform(dataset: Dataset) -> Dataset:
        chosen = dataset.map_batches(choose, batch_format="pyarrow", batch_size=None, num_cpus=resources.task_cpus)
        return chosen.map_batches(
            Synthesizer,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs={"folder": f"{stage.path}-pictures", "seed": config.seed},
            batch_format="pyarrow",
            batch_size=256,
            num_cpus=resources.actor_cpus,
            num_gpus=resources.actor_gpus or None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=resources.actors),
        )

    rows_in = int(share * samples.counts["rows_out"])
    annotate(stage, transform, source=samples.path, schema=SYNTHETIC, run=config, rows_in=rows_in)
    counts = sum_blocks(
        read_rows(stage.path, run=config, columns=["key"]), lambda block: {"rows": len(block)}, run=config
    )
    rows = int(counts["rows"])
    return stage.finish(rows_out=rows, images=rows * settings.pictures_made)


class Synthesizer:
    """Ray Data actor: captions to pictures in a tar, one tar a batch."""

    def __init__(self, config: RepresentConfig, *, folder: str, seed: int) -> None:
        self._config, self._folder, self._seed = config, folder, seed
        self._generator = make_generator(config.generator, revision=config.generator_revision)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = [
            {"key": row["key"], "shard": row["shard"], "captions": row["captions"][:1]} for row in block.to_pylist()
        ]
        made = self._config.pictures_made
        captions = [row["captions"][0] for row in rows for _ in range(made)]
        seeds = [_digest(f"{self._seed}/{row['key']}/{i}") >> 33 for row in rows for i in range(made)]
        images = self._generator.generate(captions, seeds=seeds, size=self._config.train.image_size)
        name = hashlib.blake2b(rows[0]["key"].encode(), digest_size=6).hexdigest()
        pictures = _write_tar(f"{self._folder}/{name}.tar", images)
        for place, row in enumerate(rows):
            row["pictures"] = pictures[place * made : (place + 1) * made]
        return pa.Table.from_pylist(rows, schema=SYNTHETIC)


@dataclass(frozen=True)
class PairFeed(Feed):
    """Several views of a caption's pictures, and the caption."""

    num_views: int = 2
    max_text_tokens: int = 40

    def views(self, row: dict) -> list[dict]:
        """Different pictures as long as there are some, then pictures again (another crop each)."""
        pictures = list(row["pictures"])
        self.random(row, "views").shuffle(pictures)
        return [pictures[i % len(pictures)] for i in range(self.num_views)]

    def texts(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """text_ids int32 (B, T) and caption int64 (B,): equal numbers are equal captions."""
        texts = [self.random(row, "caption").choice(row["captions"])["text"] for row in rows]
        tokenizer = load_tokenizer(self.tokenizer)
        ids = tokenizer.encode(texts, first=tokenizer.enc, max_tokens=self.max_text_tokens)
        captions = np.array([_digest(text) >> 1 for text in texts], dtype=np.int64)
        return {"text_ids": ids.astype(np.int32), "caption": captions}


class PairStep(nn.Module):
    """The dual encoder with StableRep+'s losses."""

    def __init__(self, model: DualEncoder, config: RepresentConfig) -> None:
        super().__init__()
        self.model = model
        hidden, out = config.head
        self.head = ProjectionHead(model.config.swin.num_features, hidden=hidden, out=out)
        self.temperature, self.weight = config.temperature, config.image_text_weight

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses stablerep, image_text and total, each a scalar.

        Batch: pixels uint8 (B, V, S, S, 3), text_ids (B, T), caption (B,).
        """
        config = self.model.config
        pixels, views = batch["pixels"], batch["pixels"].shape[1]
        pooled = self.model.pooled(normalise(pixels.flatten(0, 1), config.mean, config.std))
        ids = batch["caption"].repeat_interleave(views)
        features = self.head(pooled).float()
        gathered, all_ids, offset = gather(features, ids)
        stablerep = multi_positive_loss(
            features, ids, temperature=self.temperature, all_features=gathered, all_ids=all_ids, offset=offset
        )
        text = self.model.text_features(batch["text_ids"].long()).repeat_interleave(views, 0)
        scale = self.model.logit_scale.exp().clamp(max=100)
        pair = image_text_loss(self.model.image_proj(pooled).float(), text.float(), ids, logit_scale=scale)
        return {"stablerep": stablerep, "image_text": pair, "total": stablerep + self.weight * pair}


@dataclass(frozen=True)
class PairJob(Job):
    """Training of the dual encoder."""

    def build(self, device: torch.device) -> PairStep:
        """The dual encoder, its Swin of the tagger's own shape."""
        represent, model = self.run.represent, self.run.model
        config = DualEncoderConfig(
            image_size=self.config.image_size,
            mean=model.mean,
            std=model.std,
            swin=model.swin.model_copy(update={"window_size": self.config.window_size}),
            text=represent.text,
            embed_dim=represent.embed_dim,
            vocab_size=len(TextTokenizer.load(self.feed.tokenizer)),
        )
        return PairStep(DualEncoder(config), represent)

    def save(self, step: PairStep, folder: str) -> None:  # type: ignore[override]
        """Write the dual encoder; the contrastive head is left behind, as in StableRep."""
        step.model.save(Path(folder), TextTokenizer.load(self.feed.tokenizer))


def train_dual_encoder(
    stage: Stage, *, run: RunConfig, real: Manifest | None, synthetic: Manifest | None, tokenizer: str
) -> dict[str, Any]:
    """Train on rows of real pictures (`records.SAMPLE`), synthetic ones (`SYNTHETIC`), or both."""
    config = run.represent.train
    sources = {}
    if real:
        sources[real.path] = real_rows
    if synthetic:
        sources[synthetic.path] = synthetic_rows
    num_rows = sum(one.counts["rows_out"] for one in (real, synthetic) if one)
    table = make_table(f"{stage.work}/table", sources, num_rows=num_rows, run=run)
    total_steps, steps_per_epoch = count_steps(table, stage="represent.train", config=config, run=run)
    feed = PairFeed(
        table=table,
        config=config,
        seed=run.seed,
        limits=Limits(1, run.data.max_pixels, run.data.max_bytes),
        tokenizer=tokenizer,
        num_views=run.represent.pictures_per_caption,
    )
    job = PairJob(stage.name, config, run, feed, total_steps, steps_per_epoch)
    return train(job, stage=stage)


def real_rows(block: pa.Table) -> list[dict]:
    """Good rows of `records.SAMPLE` as captions with their one picture."""
    return [
        {
            "key": row["key"],
            "shard": row["shard"],
            "pictures": [{name: row[name] for name in ("uri", "offset", "nbytes")}],
            "tags": [],
            "captions": [{"text": text, "tags": []} for text in row["captions"]],
        }
        for row in block.to_pylist()
        if row["reason"] is None and row["captions"]
    ]


def synthetic_rows(block: pa.Table) -> list[dict]:
    """`SYNTHETIC` rows as captions with their pictures."""
    return [
        {
            "key": f"synthetic/{row['key']}",
            "shard": row["shard"],
            "pictures": row["pictures"],
            "tags": [],
            "captions": [{"text": text, "tags": []} for text in row["captions"]],
        }
        for row in block.to_pylist()
    ]


def _write_tar(uri: str, images: list[Any]) -> list[dict]:
    """Write pictures to a tar, published whole; returns where each lies."""
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    buffer = io.BytesIO()
    places = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index, image in enumerate(images):
            data = io.BytesIO()
            image.save(data, "JPEG", quality=95)
            info = tarfile.TarInfo(f"{index:06d}.jpg")
            info.size = data.tell()
            data.seek(0)
            places.append({"uri": uri, "offset": buffer.tell() + tarfile.BLOCKSIZE, "nbytes": info.size})
            tar.addfile(info, data)
    with fs.transaction, fs.open(path, "wb") as file:
        file.write(buffer.getvalue())
    return places


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
