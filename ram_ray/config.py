"""The configuration of a run: one typed tree, from a preset, YAML files and `section.field=value` pairs.

A preset is a whole run on one screen (`ram_ray/presets/*.yaml`). Fields that it does not set have the paper's values,
which are declared with their meaning in `ram_ray/settings`; `docs/configuration.md` is generated from there. The
configuration is checked before a run starts: an unknown field or a wrong value is one line that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from ram_ray.records import Json
from ram_ray.settings.data import DataConfig
from ram_ray.settings.data_engine import EngineConfig
from ram_ray.settings.evaluation import EvaluateConfig
from ram_ray.settings.labels import LabelsConfig
from ram_ray.settings.models import ModelConfig, TimmConfig
from ram_ray.settings.runtime import Execution, ResourcesConfig
from ram_ray.settings.section import Section
from ram_ray.settings.serving import ServeConfig
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.settings.training import TrainConfig, TrainingConfig


class RunConfig(Section):
    """The configuration of a whole run."""

    name: str = Field(
        "run", description="Name of the run; its folder is `runs/NAME` if `--run` does not say otherwise."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random draws.")
    data: DataConfig = Field(DataConfig(), description="Where the images and captions are, and which rows are usable.")
    labels: LabelsConfig = Field(LabelsConfig(), description="From captions to tags, and from tags to a label system.")
    represent: RepresentConfig = Field(
        RepresentConfig(),
        description="The encoders of texts and images, for labels, crops and distillation.",
    )
    model: ModelConfig = Field(ModelConfig(), description="Sizes of the tagger.")
    tokenizer: str = Field(
        "trained", description="`trained`: WordPiece from the run's own captions; or a Hugging Face id or path."
    )
    tokenizer_revision: str | None = Field(None, description="Commit of the tokenizer on the hub.")
    training: TrainingConfig = Field(TrainingConfig(), description="How training is distributed over workers.")
    pretrain: TrainConfig = Field(TrainConfig(), description="Training of the preliminary model.")
    retrain: TrainConfig = Field(TrainConfig(), description="Training after each round of the data engine.")
    finetune: TrainConfig = Field(
        TrainConfig(
            image_size=384,
            window_size=12,
            epochs=2,
            batch_size=208,
            lr=5e-6,
            schedule="cosine",
            warmup_steps=0,
            start="previous",
        ),
        description="Training of the final model.",
    )
    engine: EngineConfig = Field(EngineConfig(), description="The data engine.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Scoring on held-out shards.")
    serve: ServeConfig = Field(ServeConfig(), description="The HTTP endpoint.")
    resources: ResourcesConfig = Field(
        ResourcesConfig(), description="Resources that the steps of a stage ask Ray for."
    )

    @property
    def execution(self) -> Execution:
        """How stages run; no part of any digest."""
        return Execution(self.resources, self.data.rows_per_block, self.data.limits(), self.training.precision)

    @property
    def crop_encoder(self) -> TimmConfig | None:
        """The timm model that embeds crops where `represent` has a text encoder alone; None: there is none."""
        named = self.represent.image_encoder if self.represent.image_encoder.name else self.model.image_encoder
        return named if named.weights else None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name or not all(character.isalnum() or character in "-_." for character in name):
            raise ValueError("use letters, digits, '-', '_' and '.' only")
        return name

    @model_validator(mode="after")
    def _check_muon(self) -> RunConfig:
        stages = {"represent.train": self.represent.train, "pretrain": self.pretrain}
        stages |= {"retrain": self.retrain, "finetune": self.finetune}
        for name, stage in stages.items():
            if stage.optimizer == "muon" and self.training.strategy == "deepspeed" and self.training.zero_stage:
                raise ValueError(
                    f"{name}.optimizer muon needs whole matrices: set training.zero_stage to 0, not "
                    f"{self.training.zero_stage}, or training.strategy to ddp"
                )
        return self

    @model_validator(mode="after")
    def _check_annotations(self) -> RunConfig:
        for name in ("pretrain", "retrain"):
            if getattr(self, name).annotations != "newest":
                raise ValueError(f"{name}.annotations must be newest: only finetune has a choice")
        return self

    @model_validator(mode="after")
    def _check_hold_out(self) -> RunConfig:
        if self.evaluate.holds_out and self.model.architecture == "tag2text":
            raise ValueError(
                "evaluate.hold_out_labels: tag2text answers for its own labels alone, so held-out ones cannot be "
                "scored; set model.architecture to ram or ram_plus"
            )
        return self

    @model_validator(mode="after")
    def _check_views(self) -> RunConfig:
        stages = {name: getattr(self, name) for name in ("pretrain", "retrain", "finetune")}
        for name in (name for name, stage in stages.items() if stage.views):
            needs = {
                "represent.text_encoder, so that nothing is distilled": bool(self.represent.text_encoder),
                "model.image_encoder.weights": bool(self.model.image_encoder.weights),
                "backbone_lr 0 in every training": all(stage.backbone_lr == 0 for stage in stages.values()),
                "no given bundle": not self.engine.model and not any(stage.bundle for stage in stages.values()),
                f"{name}.old_labels train": stages[name].old_labels == "train",
            }
            if missing := [need for need, is_met in needs.items() if not is_met]:
                raise ValueError(
                    f"{name}.views stores the tokens of a frozen image encoder and needs {', '.join(missing)}; set "
                    f"{name}.views to null, or these"
                )
        return self

    @model_validator(mode="after")
    def _check_copies(self) -> RunConfig:
        if self.represent.train.copy_side:
            raise ValueError(
                "represent.train.copy_side: only pretrain, retrain and finetune read copies; set it to null"
            )
        for name in ("pretrain", "retrain", "finetune"):
            stage = getattr(self, name)
            if stage.copy_side and stage.views:
                raise ValueError(f"{name}.copy_side: with {name}.views a training reads no images; set one to null")
            if stage.copy_side and stage.copy_side < stage.image_size:
                raise ValueError(
                    f"{name}.copy_side: {stage.copy_side} is less than {name}.image_size {stage.image_size}; crops "
                    f"would be enlarged; set it to {stage.image_size} or more"
                )
        return self

    @model_validator(mode="after")
    def _check_models(self) -> RunConfig:
        stages = {name: getattr(self, name) for name in ("pretrain", "retrain", "finetune")}
        if not self.model.captions:
            writes = [f"{name}.caption_loss false" for name, stage in stages.items() if stage.caption_loss]
            writes += ["engine.generate.captions 0"] if self.engine.generate.captions else []
            if writes:
                raise ValueError(f"model.captions is false, so nothing can write captions; set {', '.join(writes)} too")
        default = TrainConfig().skipped_gradient
        decodes = self.model.head == "recognition" and self.model.attends
        if unused := [
            name
            for name, stage in {**stages, "represent.train": self.represent.train}.items()
            if stage.skipped_gradient != default and (not decodes or name not in stages)
        ]:
            raise ValueError(
                f"{unused[0]}.skipped_gradient is of the recognition decoder, and this training has none: leave it at "
                f"{default:g}"
            )
        if not self.model.attends and self.engine.rounds and self.engine.clean.detector == "attention":
            raise ValueError(
                "with model.recognition.layers 0 there is no attention that engine.clean.detector could find regions "
                "by; set it to whole_image, or to a detector"
            )
        if self.represent.text_encoder and self.engine.rounds and not self.crop_encoder:
            raise ValueError(
                "represent.text_encoder embeds no crops for cleaning: set represent.image_encoder, or "
                "model.image_encoder with weights"
            )
        if self.model.architecture == "tag2text":
            for name, stage in stages.items():
                if stage.distill_loss:  # the tokens of tag2text are not projected to the teacher's space
                    raise ValueError(f"{name}.distill_loss: tag2text does not distill; set it to false")
        if self.represent.is_trained and not self.represent.trains_text:
            for name, stage in stages.items():
                if stage.distill_loss:  # only the image encoder is trained, and not its projection
                    raise ValueError(
                        f"{name}.distill_loss: represent.method {self.represent.method} trains no feature to distil; "
                        "set it to false"
                    )
        if self.model.image_encoder.name or self.engine.model:
            return self  # preflight asks timm, or the bundle, what sizes it takes
        unit = self.model.swin.patch_size * 2 ** (len(self.model.swin.depths) - 1)
        for name, stage in {"represent.train": self.represent.train, **stages}.items():
            if stage.image_size % unit and not stage.bundle:
                raise ValueError(f"{name}.image_size {stage.image_size} is not a multiple of {unit}, the smallest grid")
        return self


def load(preset: str | Path | None = None, *, files: Iterable[str | Path] = (), sets: Iterable[str] = ()) -> RunConfig:
    """Build a configuration: a preset, then YAML files, then `section.field=value` pairs; later values override.

    Args:
        preset: path or URI of a YAML file; None: the defaults.
        files: paths or URIs of YAML files that override the preset.
        sets: "section.field=value" pairs that override both.

    Returns:
        The checked configuration.

    Raises:
        ValueError: if a file cannot be read, a field is unknown or a value is wrong; one line names all mistakes.
    """
    tree: Json = {}
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
    """The whole configuration as YAML; `load` of it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings have each key once; PyYAML takes the last of several without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Make the mapping of a node."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(uri: str) -> dict:
    try:
        with fsspec.open(uri, "rb") as file:
            tree = yaml.load(file.read().decode("utf-8"), _UniqueKeys)  # noqa: S506 a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ImportError) as error:
        raise ValueError(f"{uri}: cannot be read as YAML: {_one_line(error)}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{uri}: expected a mapping of sections, for example 'pretrain: {{epochs: 2}}'")
    return tree


def _merge(tree: dict, branch: dict) -> dict:
    merged = dict(tree)  # a copy: with YAML anchors sections share their mappings
    for name, value in branch.items():
        earlier = merged.get(name)
        merged[name] = _merge(earlier, value) if isinstance(earlier, dict) and isinstance(value, dict) else value
    return merged


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _line(problem: ErrorDetails) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "the configuration"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field"
    value = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"  # not a whole section
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{value}"[:300]
