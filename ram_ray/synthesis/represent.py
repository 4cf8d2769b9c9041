"""The stage `represent`: use published encoders, or train a dual encoder on the run's own images and captions.

A CLIP or SigLIP is used where it is. A text encoder and an image encoder apart are copied to the run, so that the
stages after this one need nothing else.

`synthetic_images` generates images of captions. Then the image encoder and the text encoder are trained together on the
rows of `pairs`:

    loss = multi-positive contrastive over all images of a caption + w x image-text contrastive

(StableRep+, arXiv 2306.00984, sections 3.2 and 4). `represent.method` may leave out one of the two (StableRep, CLIP),
or make the crops of each image its only positives (SimCLR). A batch has `views_per_caption` views of each caption. Both
losses compare the rows of all workers, so the step equals that of a single process with the whole batch. With micro
batches (`micro_batch_size`), only rows of the same micro batch are compared.

Letters: B captions in a batch, V views of each, S pixels, E embedding width, T tokens.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import fsspec
import torch
from torch import Tensor, nn

from ram_ray.config import RunConfig
from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.models.image_encoder import normalise
from ram_ray.models.pretrained import load_pretrained, training_fields
from ram_ray.models.teacher import Teacher
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.results import DualEncoderResult, Samples, Synthetic, Vocabulary
from ram_ray.runtime.artifacts import Run, Stage
from ram_ray.runtime.storage import make_folder
from ram_ray.runtime.tasks import Task
from ram_ray.settings.models import DualEncoderConfig, SwinConfig, TimmConfig
from ram_ray.settings.runtime import Execution
from ram_ray.settings.section import Section, StageSettings
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.settings.training import TrainingConfig
from ram_ray.synthesis.head import ProjectionHead
from ram_ray.synthesis.losses import Candidates, gather, image_text_loss, multi_positive_loss
from ram_ray.synthesis.pairs import PairFeed, real_rows, synthetic_rows
from ram_ray.synthesis.synthetic_images import select_captions, synthesize
from ram_ray.training.build import freeze_encoder
from ram_ray.training.table import RowMaker, make_table
from ram_ray.training.trainer import TrainingCounts, count_steps, train
from ram_ray.training.worker import Job
from ram_ray.training.worker_sums import world_size

logger = logging.getLogger(__name__)


class DualEncoderTraining(Section):
    """All that a dual encoder depends on that is trained here."""

    represent: RepresentConfig
    training: TrainingConfig
    image_encoder: TimmConfig
    swin: SwinConfig
    init_std: float | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    seed: int


class EncodersApart(Section):
    """A text encoder, and the timm model that embeds crops."""

    text: str
    revision: str | None
    image: TimmConfig | None
    image_size: int | None


class RepresentSettings(StageSettings):
    """All that the encoders of a run depend on: a published CLIP, two encoders apart, or how they are trained."""

    clip: str | None
    revision: str | None
    apart: EncodersApart | None = None
    training: DualEncoderTraining | None = None

    @classmethod
    def from_config(cls, config: RunConfig) -> RepresentSettings:
        """Take the settings out of the configuration of the run."""
        represent, model = config.represent, config.model
        if represent.clip:
            return cls(clip=represent.clip, revision=represent.revision)
        if represent.text_encoder:
            apart = EncodersApart(
                text=represent.text_encoder,
                revision=represent.text_revision,
                image=config.crop_encoder,
                image_size=represent.image_size,
            )
            return cls(clip=None, revision=None, apart=apart)
        training = DualEncoderTraining(
            represent=represent,
            training=config.training,
            image_encoder=model.image_encoder,
            swin=model.swin,
            init_std=model.init_std,
            mean=model.mean,
            std=model.std,
            seed=config.seed,
        )
        return cls(clip=None, revision=represent.revision, training=training)


def represent(run: Run, config: RunConfig, samples: Samples, vocabulary: Vocabulary) -> DualEncoderResult:
    """Provide the encoders of the run: a published CLIP or SigLIP, two apart, or a dual encoder that is trained here.

    Args:
        run: gets the stage's folder.
        config: configuration of the run.
        samples: SAMPLE rows.
        vocabulary: folder with `tokenizer.json`.

    Returns:
        The encoders.
    """
    settings, execution = RepresentSettings.from_config(config), config.execution
    training, apart = settings.training, settings.apart
    if apart:
        crops = apart.image.name if apart.image else "nothing"
        logger.info(
            "represent: %s embeds labels, %s embeds crops; no dual encoder: nothing is distilled", apart.text, crops
        )
    stage = run.stage(
        "represent", DualEncoderResult, settings=settings, inputs=[samples, vocabulary] if training else []
    )
    if stage.result:
        return stage.result
    if apart:
        Task(_copy_encoders, num_cpus=execution.task_cpus).run(apart, stage.path)
        return stage.finish(source=stage.path, revision=None)
    if training is None:
        assert settings.clip is not None
        Task(_check_clip, num_cpus=execution.task_cpus).run(settings.clip, settings.revision)
        return stage.finish(source=settings.clip, revision=settings.revision)
    if not training.represent.trains_text:
        logger.warning(
            "represent: %s trains no text encoder: label queries are features of new weights", training.represent.method
        )
    images = training.represent.images
    synthetic = synthesize(run, config, samples) if images != "real" else None
    real = samples if images != "synthetic" else None
    counts = train_dual_encoder(
        stage, training, real=real, synthetic=synthetic, tokenizer=vocabulary.path, execution=execution
    )
    return stage.finish(source=stage.path, revision=None, **asdict(counts))


def _check_clip(source: str, revision: str | None) -> None:
    if not Teacher.from_pretrained(source, revision=revision).is_dual:
        raise ValueError(f"represent.clip {source!r} is a text encoder alone: set represent.text_encoder")


def _copy_encoders(settings: EncodersApart, path: str) -> None:
    """Write the encoders to the stage's path."""
    teacher = Teacher.apart(
        settings.text, revision=settings.revision, image=settings.image, image_size=settings.image_size
    )
    fs, root = fsspec.url_to_fs(path)
    make_folder(fs, root)
    with tempfile.TemporaryDirectory() as folder:
        teacher.save(Path(folder))
        fs.put(f"{folder}/", f"{root}/", recursive=True)


class PairStep(nn.Module):
    """The dual encoder with the losses of `represent.method`.

    Args:
        model: the dual encoder to train; without the image-text loss all but its image encoder is frozen.
        config: section `represent`.
    """

    def __init__(self, model: DualEncoder, config: RepresentConfig) -> None:
        super().__init__()
        self.model, self.method = model, config.method
        self.temperature, self.weight = config.temperature, config.image_text_weight
        self.trains_text = config.trains_text
        self.head: ProjectionHead | None = None
        if config.method != "clip":
            hidden, out = config.head
            self.head = ProjectionHead(
                model.image_encoder.width, hidden=hidden, out=out, last_norm=config.head_last_norm
            )
        if not config.trains_text:
            for name, parameter in model.named_parameters():
                if not name.startswith("image_encoder."):
                    parameter.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch; workers average their gradients.

        Args:
            batch: tensors by name: pixels uint8 (B, V, S, S, 3), text_ids (B, T), caption (B,), optionally weight (B,).

        Returns:
            Scalars by name: stablerep (or simclr) and image_text, as far as the method has them, and total.
        """
        config = self.model.config
        pixels, views = batch["pixels"], batch["pixels"].shape[1]
        weight = batch.get("weight", torch.ones(len(pixels), device=pixels.device)).repeat_interleave(views)
        pooled = self.model.pooled(normalise(pixels.flatten(0, 1), config.mean, config.std))
        ids = batch["caption"].repeat_interleave(views)
        own: dict[str, Tensor] = {}
        if self.head:
            own["projected"] = self.head(pooled, weight).float()
        if self.trains_text:
            own["image"] = self.model.image_proj(pooled).float()
            text = self.model.text_features(batch["text_ids"].long())
            own["text"] = text.repeat_interleave(views, 0).float()
        gathered, all_ids, offset = gather(torch.cat([*own.values(), weight[:, None]], 1), ids)
        *parts, all_weight = gathered.split([*(part.shape[1] for part in own.values()), 1], 1)
        every = {name: Candidates(part, all_ids, offset) for name, part in zip(own, parts, strict=True)}
        weights: dict = {"weight": weight, "all_weight": all_weight[:, 0]}
        losses: dict[str, Tensor] = {}
        total = pooled.new_zeros((), dtype=torch.float32)
        if self.head:
            loss = multi_positive_loss(
                own["projected"], ids, temperature=self.temperature, candidates=every["projected"], **weights
            )
            total = losses["simclr" if self.method == "simclr" else "stablerep"] = world_size() * loss
        if self.trains_text:
            scale = self.model.logit_scale.exp().clamp(max=100)
            images, texts = every["image"], every["text"]
            loss = image_text_loss(
                own["image"], own["text"], ids, logit_scale=scale, images=images, texts=texts, **weights
            )
            losses["image_text"] = world_size() * loss
            total = total + (self.weight if self.head else 1.0) * losses["image_text"]
        return {**losses, "total": total}


@dataclass(frozen=True)
class PairJob(Job):
    """Training of the dual encoder."""

    settings: DualEncoderTraining = field(kw_only=True)

    def build(self, device: torch.device) -> PairStep:
        """Build the dual encoder; its image encoder is the same model as the tagger's.

        Args:
            device: not used.

        Returns:
            The training step, on the CPU.
        """
        settings = self.settings
        represent = settings.represent
        config = DualEncoderConfig(
            mean=settings.mean,
            std=settings.std,
            image_encoder=settings.image_encoder,
            swin=settings.swin,
            text=represent.text,
            embed_dim=represent.embed_dim,
            vocab_size=len(TextTokenizer.load(self.feed.tokenizer)),
            init_std=settings.init_std,
        )
        sizes = training_fields(config, image_size=self.config.image_size, window_size=self.config.window_size)
        model = DualEncoder(config.model_copy(update=sizes))
        if config.image_encoder.weights:
            load_pretrained(model.image_encoder)
        freeze_encoder(model.image_encoder, self.config)
        return PairStep(model, represent)

    def save(self, step: PairStep, folder: str) -> None:  # type: ignore[override]
        """Write the dual encoder without the projection head, as in StableRep.

        Args:
            step: the trained step.
            folder: local folder.
        """
        step.model.save(Path(folder), TextTokenizer.load(self.feed.tokenizer))


def train_dual_encoder(
    stage: Stage[DualEncoderResult],
    settings: DualEncoderTraining,
    *,
    real: Samples | None,
    synthetic: Synthetic | None,
    tokenizer: str,
    execution: Execution,
) -> TrainingCounts:
    """Train on real images (`records.SAMPLE`), synthetic images (`SYNTHETIC`), or both.

    Args:
        stage: gets the model and the work folder.
        settings: of the training.
        real: SAMPLE rows; None: no real images.
        synthetic: SYNTHETIC rows; None: no synthetic images.
        tokenizer: folder with tokenizer.json.
        execution: how the stages of the run are executed.

    Returns:
        Counts for the result of the stage.
    """
    config = settings.represent.train
    sources: dict[str, RowMaker] = {}
    if real:
        selection = None
        if settings.represent.real_pairs == "selected":
            selection = select_captions(settings.represent.num_captions, real, seed=settings.seed)
        sources[real.path] = partial(real_rows, selection=selection)
    if synthetic:
        sources[synthetic.path] = synthetic_rows
    num_rows = sum(result.rows_out for result in (real, synthetic) if result)
    table = make_table(f"{stage.work}/table", sources, num_rows=num_rows, seed=settings.seed, execution=execution)
    total_steps, steps_per_epoch = count_steps(table.num_rows, section="represent.train", config=config)
    feed = PairFeed(
        table=table,
        config=config,
        seed=settings.seed,
        limits=replace(execution.limits, min_side=1),
        tokenizer=tokenizer,
        num_views=settings.represent.num_views,
        same_image=settings.represent.method == "simclr",
    )
    job = PairJob(stage.name, config, settings.training, feed, total_steps, steps_per_epoch, settings=settings)
    return train(job, stage=stage)
