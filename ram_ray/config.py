"""The configuration of a run: one typed tree, from a preset, a YAML file and `section.field=value` pairs.

A preset is a whole run on one screen (`ram_ray/presets/*.yaml`); what it does not name has the paper's value,
which stands here beside its meaning. Everything is checked before anything starts: an unknown field or a
wrong value is one line that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import fsspec
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ram_ray.settings.data_engine import CleanConfig as CleanConfig
from ram_ray.settings.data_engine import EngineConfig
from ram_ray.settings.labels import LabelsConfig
from ram_ray.settings.models import HOW, ModelConfig, Section, TransformerConfig
from ram_ray.settings.training import AugmentConfig as AugmentConfig
from ram_ray.settings.training import TrainConfig, TrainingConfig


class DrawnConfig(Section):
    """The embedded corpus of drawn scenes (`ram_ray.drawn_scenes`)."""

    num_web: int = Field(8000, ge=1)  # scenes whose captions leave out and invent things
    num_clean: int = Field(1000, ge=0)  # scenes whose captions are complete: the finetuning set
    num_eval: int = Field(1000, ge=1)  # held-out scenes, with labels
    scenes_per_shard: int = Field(1000, ge=1)
    image_size: int = Field(64, ge=32)
    unsaid: float = Field(0.35, ge=0, le=1)  # share of what is drawn that a web caption leaves out
    false: float = Field(0.1, ge=0, le=0.5)  # share of a web caption's tags that are not drawn
    level: Literal["plain", "hard"] = "plain"  # hard: small, overlapping, any colour on any background


class MeasureConfig(Section):
    """For measuring the data engine on photos (`ram_ray.data.measure`); a real run hides and spoils nothing."""

    captions_per_image: int | None = Field(None, ge=1)  # trained on; the tags of all captions are the truth
    planted: float = Field(0.0, ge=0, le=1)  # false tags planted, as a share of the captions' tags

    @property
    def on(self) -> bool:
        """Whether the captions' tags are to be kept as the truth."""
        return self.captions_per_image is not None or self.planted > 0


class DataConfig(Section):
    """Where the pictures and captions are, and what makes a row usable."""

    train: list[str] = []  # URIs or globs; empty: the drawn scenes
    eval: list[str] = []
    shard_folders: int = Field(1, ge=0)  # of the folders above a shard, those that are a part of its name: "coco/00000"
    drawn: DrawnConfig = DrawnConfig()
    check: Literal["decode", "header"] = "header"
    min_side: int = Field(32, ge=1)  # pixels
    max_pixels: int = Field(50_000_000, ge=1)
    max_bytes: int = Field(50_000_000, ge=1)
    rows_per_block: int = Field(512, ge=1)  # images that one task reads and decodes
    measure: MeasureConfig = MeasureConfig()


class RepresentConfig(Section):
    """The dual encoder: text side for the label queries, image side for distillation.

    With `clip` set to a Hugging Face id (and `revision`) or a local path nothing is trained. Otherwise a
    small one is trained with StableRep's multi-positive loss (arXiv 2306.00984, section 3.2) plus the
    image-text loss of StableRep+.
    """

    clip: str | None = None
    revision: str | None = None
    images: Literal["synthetic", "real", "both"] = "both"
    generator: str = "drawn"  # "drawn", or a Stable Diffusion id or path for diffusers
    generator_revision: str | None = None
    num_captions: int = Field(2000, ge=1)  # about how many captions synthetic pictures are made of
    pictures_made: int = Field(10, ge=1)  # a caption, beforehand
    pictures_per_caption: int = Field(2, ge=2)  # m of StableRep: positives of one caption in a batch
    text: TransformerConfig = TransformerConfig(width=512, layers=6, heads=8, ffn=2048, dropout=0.0)
    embed_dim: int = Field(512, ge=1)
    head: tuple[int, int] = (4096, 256)  # hidden and output width of the contrastive head
    temperature: float = Field(0.1, gt=0)
    image_text_weight: float = Field(0.5, ge=0)
    train: TrainConfig = TrainConfig(epochs=10, batch_size=512, lr=1e-3, weight_decay=0.1, schedule="cosine")


class EvaluateConfig(Section):
    """Scoring on labelled shards (or, where they carry no labels, the tags of their captions)."""

    min_positives: int = Field(1, ge=1)  # tags with fewer positives are left out of mAP
    threshold: float = Field(0.5, gt=0, lt=1)
    batch_size: int = Field(64, json_schema_extra=HOW)


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    num_cpus: float = 0.5
    num_gpus: float = 0
    threads: int = 1
    max_batch_size: int = 16
    batch_wait_s: float = 0.01
    max_request_bytes: int = 32_000_000
    max_image_bytes: int = 16_000_000
    max_pixels: int = 50_000_000
    max_images: int = 16
    timeout_s: float = 30.0
    max_queued: int = 128


class ResourcesConfig(Section):
    """What the steps of a stage ask Ray for.

    Tasks read, decode, parse and write, on every CPU that the cluster has. Actors hold a model; they ask for a GPU and
    next to no CPU, so that tasks always find one. None at all would bring them to a head node that should hold none.
    """

    task_cpus: float = Field(1.0, gt=0)
    max_cpus: float | None = Field(None, gt=0)  # of a stage; None: all there are, and what an autoscaler may still add
    actor_cpus: float = Field(0.1, gt=0)
    actor_gpus: float = Field(0.0, ge=0)
    actors: int | tuple[int, int] = 1  # most actors of one step, or [fewest, most]
    threads: int = Field(1, ge=1)  # of an actor's model on a CPU
    shuffle_partitions: int = Field(200, ge=1)  # of a group-by: tags, names
    num_cpus: int | None = None  # only for a cluster that the run itself starts; None: the machine's
    object_store_gb: float | None = None  # only for a cluster that the run itself starts
    buffer_mb: int | None = Field(None, ge=16)  # rows that wait between a stage's steps; None: Ray's share of its store

    @field_validator("actors")
    @classmethod
    def _some_actors(cls, actors: int | tuple[int, int]) -> int | tuple[int, int]:
        fewest, most = actors if isinstance(actors, tuple) else (1, actors)
        if not 1 <= fewest <= most:
            raise ValueError("write a number from 1 on, or [fewest, most]")
        return actors

    @property
    def fewest_actors(self) -> int:
        """Actors of a step from its start to its end."""
        return self.actors[0] if isinstance(self.actors, tuple) else 1

    @property
    def most_actors(self) -> int:
        """Actors of a step where there is work and room for them."""
        return self.actors[1] if isinstance(self.actors, tuple) else self.actors


class RunConfig(Section):
    """A whole run."""

    name: str = "run"
    seed: int = Field(0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    labels: LabelsConfig = LabelsConfig()
    represent: RepresentConfig = RepresentConfig()
    model: ModelConfig = ModelConfig()
    tokenizer: str = "trained"  # WordPiece from the run's own captions, or a Hugging Face id or path
    tokenizer_revision: str | None = None
    training: TrainingConfig = TrainingConfig()
    pretrain: TrainConfig = TrainConfig()
    retrain: TrainConfig = TrainConfig()
    finetune: TrainConfig = TrainConfig(
        image_size=384,
        window_size=12,
        epochs=2,
        batch_size=208,
        lr=5e-6,
        schedule="cosine",
        warmup_steps=0,
        start="previous",
    )
    engine: EngineConfig = EngineConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError("use letters, digits, '-', '_' and '.' only")
        return name

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> RunConfig:
        stages = {"represent.train": self.represent.train, "pretrain": self.pretrain}
        stages |= {"retrain": self.retrain, "finetune": self.finetune}
        for name, stage in stages.items():
            if stage.optimizer == "muon" and self.training.engine == "deepspeed" and self.training.zero_stage:
                raise ValueError(
                    f"{name}.optimizer muon needs whole matrices: set training.zero_stage to 0, not "
                    f"{self.training.zero_stage}, or training.engine to ddp"
                )
        return self

    @model_validator(mode="after")
    def _sizes_agree(self) -> RunConfig:
        unit = self.model.swin.patch_size * 2 ** (len(self.model.swin.depths) - 1)
        stages = {name: getattr(self, name) for name in ("pretrain", "retrain", "finetune")}
        if self.model.architecture == "ram_plus":
            raise ValueError("model.architecture ram_plus is not trained here; use ram, or tag2text")
        if not self.model.captions:
            writes = [f"{name}.caption_loss false" for name, stage in stages.items() if stage.caption_loss]
            writes += ["engine.generate.captions 0"] if self.engine.generate.captions else []
            if writes:
                raise ValueError(f"model.captions is false, so nothing can write captions; set {', '.join(writes)} too")
        if self.model.architecture == "tag2text":
            for name, stage in stages.items():
                if stage.distill_loss:  # its tokens are not projected to the teacher's space
                    raise ValueError(f"{name}.distill_loss: tag2text does not distill; set it to false")
        for name, stage in {"represent.train": self.represent.train, **stages}.items():
            if stage.image_size % unit:
                raise ValueError(f"{name}.image_size {stage.image_size} is not a multiple of {unit}, the smallest grid")
        return self


def load(preset: str | Path | None = None, *, files: Iterable[str | Path] = (), sets: Iterable[str] = ()) -> RunConfig:
    """Build a configuration: a preset, then YAML files, then `section.field=value` pairs, later ones winning.

    Raises:
        ValueError: for a file that cannot be read, an unknown field or a wrong value; one line a mistake.
    """
    tree: dict[str, Any] = {}
    for path in [*([preset] if preset else []), *files]:
        tree = _merge(tree, _read_yaml(str(path)))
    for pair in sets:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {pair!r}: write section.field=value, for example --set pretrain.epochs=2")
        try:
            branch: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {pair!r}: the value cannot be read as YAML: {_one_line(error)}") from None
        for part in reversed(name.strip().split(".")):
            branch = {part: branch}
        tree = _merge(tree, branch)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError("; ".join(_line(problem) for problem in error.errors())) from None


def dump(config: RunConfig) -> str:
    """The whole configuration as YAML; `load` of the result gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(uri: str) -> dict:
    try:
        with fsspec.open(uri, "rb") as file:
            tree = yaml.safe_load(file.read().decode("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ImportError) as error:
        raise ValueError(f"{uri}: cannot be read as YAML: {_one_line(error)}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{uri}: expected a mapping of sections, for example 'pretrain: {{epochs: 2}}'")
    return tree


def _merge(tree: dict, branch: dict) -> dict:
    merged = dict(tree)  # a new one: YAML anchors make sections share their mappings
    for name, value in branch.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _line(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "the configuration"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field"
    got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"  # not a whole section
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{got}"[:300]
