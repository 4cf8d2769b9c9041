"""Represent: a dual encoder from the run's own pictures and captions, where no CLIP is at hand.

Pictures of captions are made beforehand (`pictures`); then image and text side are trained together (`pairs` says
on what):

    loss = multi-positive contrastive over all pictures of a caption + w x image-text contrastive

A batch takes `pictures_per_caption` views of each caption. (arXiv 2306.00984, sections 3.2 and 4.) Both losses see
the rows of all workers, so that the step is that of one process with the whole batch; but where a share is cut into
micro batches (`micro_batch_size`), only rows of one micro batch are compared with each other.

Letters: B captions in a batch, V views of each, S pixels, E embedding width, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor, nn

from ram_ray.config import RunConfig
from ram_ray.models.dual_encoder import DualEncoder, Teacher
from ram_ray.models.image_encoder import normalise
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.runtime.artifacts import Manifest, Run, Stage
from ram_ray.runtime.storage import TASK_RETRIES
from ram_ray.settings.models import DualEncoderConfig
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.synthesis.head import ProjectionHead
from ram_ray.synthesis.losses import Everywhere, gather, image_text_loss, multi_positive_loss
from ram_ray.synthesis.pairs import PairFeed, real_rows, synthetic_rows
from ram_ray.synthesis.pictures import synthesize
from ram_ray.training.table import make_table
from ram_ray.training.trainer import count_steps, train
from ram_ray.training.worker import Job
from ram_ray.training.workers import world_size


def represent(run: Run, config: RunConfig, samples: Manifest, vocabulary: Manifest) -> Manifest:
    """The dual encoder of this run: a CLIP by name, or one trained here. `counts["source"]` says where it is.

    Args:
        run: gets the stage's folder.
        config: of the run.
        samples: stage that left SAMPLE rows.
        vocabulary: stage that left `tokenizer.json`.
    """
    settings = config.represent
    named = bool(settings.clip)
    identity: dict[str, Any] = {"clip": settings.clip, "revision": settings.revision}
    if not named:
        model = {"swin": config.model.swin, "init_std": config.model.init_std}
        identity = {"represent": settings, "training": config.training, "model": model, "seed": config.seed}
    stage = run.stage("represent", kind="models", config=identity, inputs=[] if named else [samples, vocabulary])
    if stage.manifest:
        return stage.manifest
    if settings.clip:
        check = ray.remote(num_cpus=config.resources.task_cpus, **TASK_RETRIES)(_check_clip)
        ray.get(check.remote(settings.clip, settings.revision))
        return stage.finish(source=settings.clip, revision=settings.revision)
    synthetic = synthesize(run, config, samples) if settings.images != "real" else None
    real = samples if settings.images != "synthetic" else None
    counts = train_dual_encoder(stage, run=config, real=real, synthetic=synthetic, tokenizer=vocabulary.path)
    return stage.finish(source=stage.path, revision=None, images=counts["images_seen"], **counts)


def _check_clip(source: str, revision: str | None) -> None:
    Teacher.from_pretrained(source, revision=revision)


class PairStep(nn.Module):
    """The dual encoder with StableRep+'s losses."""

    def __init__(self, model: DualEncoder, config: RepresentConfig) -> None:
        super().__init__()
        self.model = model
        hidden, out = config.head
        self.head = ProjectionHead(model.config.swin.num_features, hidden=hidden, out=out)
        self.temperature, self.weight = config.temperature, config.image_text_weight

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One training step's losses; workers average their gradients.

        Args:
            batch: tensors by name: pixels uint8 (B, V, S, S, 3), text_ids (B, T), caption (B,), optionally weight (B,).

        Returns:
            Scalars by name: stablerep, image_text and total.
        """
        config = self.model.config
        pixels, views = batch["pixels"], batch["pixels"].shape[1]
        weight = batch.get("weight", torch.ones(len(pixels), device=pixels.device)).repeat_interleave(views)
        pooled = self.model.pooled(normalise(pixels.flatten(0, 1), config.mean, config.std))
        ids = batch["caption"].repeat_interleave(views)
        text = self.model.text_features(batch["text_ids"].long()).repeat_interleave(views, 0).float()
        own = [self.head(pooled, weight).float(), self.model.image_proj(pooled).float(), text]
        widths = [*(one.shape[1] for one in own), 1]
        gathered, all_ids, offset = gather(torch.cat([*own, weight[:, None]], 1), ids)
        *others, counts = gathered.split(widths, 1)
        features, images, texts = (Everywhere(one, all_ids, offset) for one in others)
        given: dict = {"weight": weight, "all_weight": counts[:, 0]}
        stablerep = multi_positive_loss(own[0], ids, temperature=self.temperature, everywhere=features, **given)
        scale = self.model.logit_scale.exp().clamp(max=100)
        pair = image_text_loss(own[1], text, ids, logit_scale=scale, images=images, texts=texts, **given)
        stablerep, pair = world_size() * stablerep, world_size() * pair
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
            init_std=model.init_std,
        )
        return PairStep(DualEncoder(config), represent)

    def save(self, step: PairStep, folder: str) -> None:  # type: ignore[override]
        """Write the dual encoder; the contrastive head is left behind, as in StableRep."""
        step.model.save(Path(folder), TextTokenizer.load(self.feed.tokenizer))


def train_dual_encoder(
    stage: Stage, *, run: RunConfig, real: Manifest | None, synthetic: Manifest | None, tokenizer: str
) -> dict[str, Any]:
    """Train on rows of real pictures (`records.SAMPLE`), synthetic ones (`SYNTHETIC`), or both.

    Args:
        stage: gets the model and the work folder.
        run: the run's configuration.
        real: stage that left SAMPLE rows; None: no real pictures.
        synthetic: stage that left SYNTHETIC rows; None: no synthetic pictures.
        tokenizer: folder with tokenizer.json.

    Returns:
        Counts for the manifest.
    """
    config = run.represent.train
    sources = {}
    if real:
        sources[real.path] = real_rows
    if synthetic:
        sources[synthetic.path] = synthetic_rows
    num_rows = sum(one.counts["rows_out"] for one in (real, synthetic) if one)
    table = make_table(f"{stage.work}/table", sources, num_rows=num_rows, run=run)
    total_steps, steps_per_epoch = count_steps(table, stage="represent.train", config=config)
    feed = PairFeed(
        table=table,
        config=config,
        seed=run.seed,
        limits=run.data.limits(min_side=1),
        tokenizer=tokenizer,
        num_views=run.represent.pictures_per_caption,
    )
    job = PairJob(stage.name, config, run, feed, total_steps, steps_per_epoch)
    return train(job, stage=stage)
