"""The stage `represent`: use a published CLIP, or train a dual encoder on the run's own images and captions.

`pictures` generates synthetic images of captions. Then the image encoder and the text encoder are trained together on
the rows of `pairs`:

    loss = multi-positive contrastive over all images of a caption + w x image-text contrastive

(StableRep+, arXiv 2306.00984, sections 3.2 and 4). A batch has `pictures_per_caption` views of each caption. Both
losses compare the rows of all workers, so the step equals that of a single process with the whole batch. With micro
batches (`micro_batch_size`), only rows of the same micro batch are compared.

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
from ram_ray.synthesis.losses import Candidates, gather, image_text_loss, multi_positive_loss
from ram_ray.synthesis.pairs import PairFeed, real_rows, synthetic_rows
from ram_ray.synthesis.synthetic_images import synthesize
from ram_ray.training.table import make_table
from ram_ray.training.trainer import count_steps, train
from ram_ray.training.worker import Job
from ram_ray.training.worker_sums import world_size


def represent(run: Run, config: RunConfig, samples: Manifest, vocabulary: Manifest) -> Manifest:
    """Provide the dual encoder of the run: a published CLIP, or one that is trained here.

    Args:
        run: gets the stage's folder.
        config: configuration of the run.
        samples: manifest of SAMPLE rows.
        vocabulary: manifest of the stage with `tokenizer.json`.

    Returns:
        The manifest of the stage; `counts["source"]` is the path or id of the dual encoder.
    """
    settings = config.represent
    published = bool(settings.clip)
    identity: dict[str, Any] = {"clip": settings.clip, "revision": settings.revision}
    if not published:
        model = {"swin": config.model.swin, "init_std": config.model.init_std}
        identity = {"represent": settings, "training": config.training, "model": model, "seed": config.seed}
    stage = run.stage("represent", kind="models", config=identity, inputs=[] if published else [samples, vocabulary])
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
    """The dual encoder with the losses of StableRep+.

    Args:
        model: the dual encoder to train.
        config: section `represent`.
    """

    def __init__(self, model: DualEncoder, config: RepresentConfig) -> None:
        super().__init__()
        self.model = model
        hidden, out = config.head
        self.head = ProjectionHead(model.config.swin.num_features, hidden=hidden, out=out)
        self.temperature, self.weight = config.temperature, config.image_text_weight

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch; workers average their gradients.

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
        widths = [*(part.shape[1] for part in own), 1]
        gathered, all_ids, offset = gather(torch.cat([*own, weight[:, None]], 1), ids)
        *parts, all_weight = gathered.split(widths, 1)
        features, images, texts = (Candidates(part, all_ids, offset) for part in parts)
        weights: dict = {"weight": weight, "all_weight": all_weight[:, 0]}
        stablerep = multi_positive_loss(own[0], ids, temperature=self.temperature, candidates=features, **weights)
        scale = self.model.logit_scale.exp().clamp(max=100)
        pair = image_text_loss(own[1], text, ids, logit_scale=scale, images=images, texts=texts, **weights)
        stablerep, pair = world_size() * stablerep, world_size() * pair
        return {"stablerep": stablerep, "image_text": pair, "total": stablerep + self.weight * pair}


@dataclass(frozen=True)
class PairJob(Job):
    """Training of the dual encoder."""

    def build(self, device: torch.device) -> PairStep:
        """Build the dual encoder; its Swin has the sizes of the tagger's.

        Args:
            device: not used.

        Returns:
            The training step, on the CPU.
        """
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
        """Write the dual encoder without the projection head, as in StableRep.

        Args:
            step: the trained step.
            folder: local folder.
        """
        step.model.save(Path(folder), TextTokenizer.load(self.feed.tokenizer))


def train_dual_encoder(
    stage: Stage, *, run: RunConfig, real: Manifest | None, synthetic: Manifest | None, tokenizer: str
) -> dict[str, Any]:
    """Train on real images (`records.SAMPLE`), synthetic images (`SYNTHETIC`), or both.

    Args:
        stage: gets the model and the work folder.
        run: configuration of the run.
        real: manifest of SAMPLE rows; None: no real images.
        synthetic: manifest of SYNTHETIC rows; None: no synthetic images.
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
    num_rows = sum(manifest.counts["rows_out"] for manifest in (real, synthetic) if manifest)
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
