"""Settings of training: the recipe of each training run, and how all of them are distributed over workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ram_ray.settings.section import RUNTIME_ONLY, Section

STARTS = ("represent", "previous", "scratch")  # what a training starts from, if not a bundle


class AugmentConfig(Section):
    """Training crops (paper, appendix): random resized crop, flip, RandAugment."""

    crop_scale: tuple[float, float] = Field(
        (0.2, 1.0), description="Smallest and largest share of an image's area that a crop takes."
    )
    flip: bool = Field(True, description="Whether half of the crops are mirrored.")
    randaugment: tuple[int, int] | None = Field(
        (2, 5),
        description=(
            "Number of operations and magnitude of RandAugment; each operation is applied with probability 0.5. "
            "`null`: none."
        ),
    )
    colour_jitter: tuple[float, float, float, float] | None = Field(
        None,
        description=(
            "Largest change of brightness, contrast, saturation and hue, made to four of five crops. `null`: none."
        ),
    )
    greyscale: float = Field(0.0, ge=0, le=1, description="Share of the crops that are made grey.")
    blur: float = Field(
        0.0, ge=0, le=1, description="Share of the crops that are blurred, with a deviation of 0.1 to 2 pixels."
    )

    @field_validator("colour_jitter")
    @classmethod
    def _check_jitter(cls, jitter: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if jitter is not None and (min(jitter) < 0 or jitter[3] > 0.5):
            raise ValueError("must be 0 or more, and the change of hue at most 0.5; write null for none")
        return jitter


class TagLossConfig(Section):
    """The loss of tags: the asymmetric loss (arXiv 2009.14119; with three zeros binary cross-entropy), or a ranking."""

    kind: Literal["asymmetric", "ranking"] = Field(
        "asymmetric",
        description=(
            "`ranking` is that of MKT: positives above negatives by `margin`. Its probabilities are not calibrated."
        ),
    )
    margin: float = Field(1.0, gt=0, description="Least difference of logits that `ranking` asks for.")
    gamma_neg: float = Field(7.0, ge=0, description="Focusing exponent of negatives.")
    gamma_pos: float = Field(0.0, ge=0, description="Focusing exponent of positives.")
    clip: float = Field(
        0.05, ge=0, lt=1, description="Shift of the probability of negatives; easier ones have no loss."
    )


class TrainConfig(Section):
    """One training run: pretrain, retrain or finetune. Defaults: the paper's pretraining."""

    image_size: int = Field(224, description="Side of a crop in pixels.")
    window_size: int = Field(
        7,
        ge=1,
        description="Side of the Swin's attention window in patches; position biases are resized where it changes.",
    )
    epochs: float = Field(5, gt=0, description="Passes over the training images; a fraction is possible.")
    batch_size: int = Field(
        416, ge=1, description="Images of one optimizer step, over all workers; the paper's is 8 x 52."
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        json_schema_extra=RUNTIME_ONLY,
        description=(
            "Most images that a worker holds at once; gradients are accumulated. `null`: its whole share of a step."
        ),
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="`muon` is for small models that are trained from scratch."
    )
    lr: float = Field(1e-4, gt=0, description="Largest learning rate.")
    muon_lr: float = Field(
        5e-3, gt=0, description="Largest learning rate of the matrices under `muon`; follows the schedule of `lr`."
    )
    backbone_lr: float | None = Field(
        None,
        ge=0,
        description=(
            "Largest learning rate of the image encoder, under AdamW; follows the schedule of `lr`. 0: it is not "
            "trained. `null`: it is trained as the rest."
        ),
    )
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of AdamW's mean of squared gradients.")
    min_lr: float = Field(1e-6, ge=0, description="Smallest learning rate after the warmup.")
    warmup_steps: int = Field(
        3000, ge=0, description="Steps over which the learning rate rises from `warmup_lr` to `lr`."
    )
    warmup_lr: float = Field(5e-7, ge=0, description="Learning rate of the first step.")
    schedule: Literal["step", "cosine", "cosine_epochs"] = Field(
        "step",
        description=(
            "How the learning rate falls after the warmup: x `decay` an epoch, a cosine, or a cosine that is constant "
            "within an epoch."
        ),
    )
    decay: float = Field(
        0.9, gt=0, le=1, description="Factor of the learning rate for each epoch of the schedule `step`."
    )
    weight_decay: float = Field(0.05, ge=0, description="Weight decay.")
    decay_vectors: bool = Field(
        False, description="Whether biases, norms and other vectors decay too, as in the official training."
    )
    clip_grad: float | None = Field(1.0, description="Largest norm of a step's gradient. `null`: it is not clipped.")
    shards: str = Field(
        "*", description="Shards to train on: a glob on a folder or a stem, or with `/` on shard names."
    )
    tag_cap: float | None = Field(
        None,
        gt=0,
        le=1,
        description=(
            "Share of images above which a tag does not add to the weight of its images. `null`: all images have the "
            "same weight."
        ),
    )
    annotations: Literal["newest", "parsed"] = Field(
        "newest",
        description=(
            "Captions and tags to train on: those of the last round of the data engine, or those before it. Only "
            "`finetune` has a choice."
        ),
    )
    removed: Literal["negative", "unknown"] = Field(
        "negative",
        description="Target of a tag that cleaning removed: `negative` (as in the paper), `unknown` (no loss).",
    )
    start: str = Field(
        "represent",
        min_length=1,
        description=(
            "Initial weights: the backbone of `represent` (or `model.image_encoder.weights`), the `previous` model, "
            "all new (`scratch`), or path, URI or id of a bundle, whose sizes replace `model`."
        ),
    )
    start_revision: str | None = Field(None, description="Commit of the bundle `start` on the hub.")
    old_labels: Literal["train", "keep"] = Field(
        "train",
        description=(
            "What teaches the labels that a given bundle (`start`, `engine.model`) already has: `train`, the "
            "annotations; `keep`, the scores of the model that the training starts from, so that they stay."
        ),
    )
    kept_weight: float = Field(
        1.0, gt=0, description="Weight of the loss of labels that stay (`old_labels: keep`), beside that of the others."
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Training crops.")
    views: int | None = Field(
        None,
        ge=1,
        description=(
            "Number of fixed crops of each image. The frozen image encoder (`backbone_lr: 0`) encodes them once a run, "
            "and epochs take turns. `null`: every epoch draws and encodes new crops."
        ),
    )
    copy_side: int | None = Field(
        None,
        ge=1,
        description=(
            "Shorter side in pixels of copies of the images, which are written once in the order of training and read "
            "in place of them. `null`: the data's own images are read."
        ),
    )
    tag_loss: TagLossConfig = Field(TagLossConfig(), description="Loss of the tags.")
    skipped_gradient: float = Field(
        1e-6,
        ge=0,
        lt=1,
        description=(
            "Share of an image's gradients, the smallest logits' first, that the backward pass of the recognition "
            "decoder skips; the default is below float32's rounding, 0.01 an approximation."
        ),
    )
    caption_loss: bool = Field(True, description="Whether the caption loss is part of the loss.")
    clean_captions: bool = Field(
        False,
        description=(
            "Whether captions are learnt in lower case, without punctuation and cut at 30 words, as in the official "
            "training."
        ),
    )
    distill_loss: bool = Field(
        True, description="Whether distillation of the teacher's image feature is part of the loss."
    )
    checkpoint_steps: int = Field(
        1000, ge=1, json_schema_extra=RUNTIME_ONLY, description="Steps from checkpoint to checkpoint."
    )
    max_checkpoints: int = Field(2, ge=1, json_schema_extra=RUNTIME_ONLY, description="Checkpoints that are kept.")

    @property
    def bundle(self) -> str | None:
        """Path, URI or id of the bundle that the training starts from; None: it starts from none."""
        return None if self.start in STARTS else self.start

    @field_validator("start")
    @classmethod
    def _check_start(cls, start: str) -> str:
        if start not in STARTS and "/" not in start:
            raise ValueError(f"write {', '.join(STARTS)}, or ./FOLDER, a URI or OWNER/NAME of a bundle")
        return start

    @field_validator("clip_grad")
    @classmethod
    def _check_clip_grad(cls, norm: float | None) -> float | None:
        if norm is not None and norm <= 0:
            raise ValueError("must be positive; write null to leave gradients as they are")
        return norm


class TrainingConfig(Section):
    """How training is distributed, for all training runs."""

    workers: int | tuple[int, int] = Field(
        8,
        json_schema_extra=RUNTIME_ONLY,
        description=(
            "Number of workers, or `[least, most]`: then it follows the resources of the cluster. The result does not "
            "depend on it."
        ),
    )
    use_gpu: bool = Field(True, description="Whether each worker has a GPU.")
    strategy: Literal["deepspeed", "ddp"] = Field("deepspeed", description="What spreads a step over the workers.")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="ZeRO stage of DeepSpeed.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description=(
            "Number format of the forward and backward pass, and of models that the stages run. `auto`: bf16 on a GPU "
            "and on a processor that has bf16 arithmetic, else fp32."
        ),
    )
    recompute: bool = Field(
        False,
        json_schema_extra=RUNTIME_ONLY,
        description=(
            "Whether the backward pass computes the tagger's layers again, which needs less memory and more time. The "
            "gradients are the same."
        ),
    )
    threads: int = Field(1, ge=1, json_schema_extra=RUNTIME_ONLY, description="Torch threads of a worker on a CPU.")
    worker_cpus: float = Field(1.0, gt=0, json_schema_extra=RUNTIME_ONLY, description="CPUs of a worker.")
    max_failures: int = Field(
        3,
        ge=-1,
        json_schema_extra=RUNTIME_ONLY,
        description="Most failures of workers after which training is resumed.",
    )
    feed_cpus: float = Field(
        1.0, gt=0, json_schema_extra=RUNTIME_ONLY, description="CPUs of a task that decodes training images."
    )
    tensorboard: bool = Field(
        False,
        json_schema_extra=RUNTIME_ONLY,
        description="Whether a trained model's folder also has its metrics as TensorBoard events, in `tensorboard/`.",
    )

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (workers, workers) if isinstance(workers, int) else workers
        if not 1 <= least <= most:
            raise ValueError("write a number of at least 1, or [least, most] such as [2, 8]")
        return workers

    @property
    def max_workers(self) -> int:
        """Most workers of a training run."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]
