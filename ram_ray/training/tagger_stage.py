"""The stages `pretrain`, `retrain` and `finetune`: a tagger, trained on annotations by the one trainer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ram_ray.config import RunConfig
from ram_ray.data.folds import Fold
from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import read_config
from ram_ray.results import Annotations, DualEncoderResult, LabelSystemResult, Samples, TrainedModel, Vocabulary
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.input_file import InputFile
from ram_ray.settings.models import ModelConfig
from ram_ray.settings.section import StageSettings
from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.build import TaggerJob
from ram_ray.training.copy_stage import copy_images
from ram_ray.training.encode_stage import encode_views, with_views
from ram_ray.training.feed import TaggerFeed
from ram_ray.training.given_model import give_model
from ram_ray.training.table import RowSelection, make_table, row_maker
from ram_ray.training.trainer import count_steps, train


class TaggerSettings(StageSettings):
    """All that a trained tagger depends on, beside its annotations and the model it starts from."""

    train: TrainConfig
    training: TrainingConfig
    model: ModelConfig
    descriptions: InputFile | None  # of labels, for RAM++
    seed: int
    left_out: tuple[int, int] | None  # start and end of the `Fold` that is not trained on

    @classmethod
    def from_config(
        cls, config: RunConfig, *, train: TrainConfig, left_out: Fold | None, start: TrainedModel | None = None
    ) -> TaggerSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            train: section of this training.
            left_out: fold that is not trained on.
            start: model to start from, which has its own sizes; None: it starts from none.

        Returns:
            The settings.
        """
        if train.bundle:  # `start` identifies it; another path to the same bundle is the same training
            train = train.model_copy(update={"start": "bundle", "start_revision": None})
        describes = start is None and config.model.architecture == "ram_plus"
        return cls(
            train=train,
            training=config.training,
            model=read_config(start.path) if start else config.model,
            descriptions=InputFile.find(config.labels.descriptions) if describes else None,
            seed=config.seed,
            left_out=(left_out.start, left_out.end) if left_out else None,
        )


@dataclass(frozen=True)
class TrainingInputs:
    """What every training of a run takes beside annotations."""

    labels: LabelSystemResult
    dual_encoder: DualEncoderResult  # embeds the labels, and is distilled
    vocabulary: Vocabulary  # a folder that every node can read
    samples: Samples  # all images that are trained on


def train_tagger(
    run: Run,
    config: RunConfig,
    train_config: TrainConfig,
    annotations: Annotations,
    inputs: TrainingInputs,
    *,
    name: str,
    start: TrainedModel | None = None,
    left_out: Fold | None = None,
    fold: int | None = None,
) -> TrainedModel:
    """Train a tagger on all images but those left out, and write its bundle.

    Args:
        run: gets the stage's folder.
        config: of the run.
        train_config: section of this training.
        annotations: rows to train on.
        inputs: the other inputs of training.
        name: of the stage; it begins with the section of the training.
        start: model to start from, with the labels of the run; None: the backbone of the dual encoder, or new weights.
        left_out: fold that is not trained on; epochs count the other images.
        fold: index of the fold that only this model scores.

    Returns:
        The trained model.

    Raises:
        ValueError: if the model to start from cannot be trained as the section says.
    """
    settings = TaggerSettings.from_config(config, train=train_config, left_out=left_out, start=start)
    execution, section = config.execution, name.partition("_")[0]
    if start:
        check_start(settings.model, settings.train, section=section)
    labels, dual_encoder, vocabulary = inputs.labels, inputs.dual_encoder, inputs.vocabulary
    results = [annotations, labels, dual_encoder, vocabulary, *([start] if start else [])]
    stage = run.stage(name, TrainedModel, settings=settings, inputs=results)
    if stage.result:
        return stage.result
    count_steps(annotations.rows_out, section=section, config=settings.train)  # the table has no more rows than these
    selection = RowSelection(settings.train.shards, left_out)
    path = annotations.path
    make_rows = row_maker(path, config=settings.train, selection=selection, execution=execution)
    views = encode_views(run, config, settings.train, inputs.samples) if settings.train.views else None
    if views:
        make_rows = with_views(make_rows, views.path)
    copies = copy_images(run, config, settings.train, inputs.samples) if settings.train.copy_side else None
    table = make_table(
        f"{stage.work}/table",
        {path: make_rows},
        selection=selection,
        num_rows=inputs.samples.rows_out if copies else annotations.rows_out,  # as many buckets as the copies
        seed=settings.seed,
        execution=execution,
    )
    run.current = name  # an error is one of this stage, and not of the stages in it
    limits = execution.limits
    if copies:
        table = replace(table, copies=copies.path)
        limits = replace(limits, min_side=min(limits.min_side, settings.train.copy_side or limits.min_side))
    total_steps, steps_per_epoch = count_steps(table.num_rows, section=section, config=settings.train)
    feed = TaggerFeed(
        table=table,
        config=settings.train,
        seed=settings.seed,
        limits=limits,
        tokenizer=start.path if start and settings.model.captions else vocabulary.path,
        tag_names=tuple(LabelSystem.load(labels.uri).names),
        prompt=settings.model.prompt,
        max_caption_tokens=settings.model.max_caption_tokens,
        max_tag_tokens=settings.model.max_tag_tokens,
        aligns=settings.model.architecture == "ram_plus",
        token_shape=views.token_shape if views else None,
    )
    job = TaggerJob(
        stage=name,
        config=settings.train,
        training=settings.training,
        feed=feed,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        model=settings.model,
        label_system=labels.uri,
        descriptions=settings.descriptions,
        teacher=dual_encoder.source,
        teacher_revision=dual_encoder.revision,
        start=start.path if start else None,
    )
    counts = train(job, stage=stage)
    return stage.finish(image_size=settings.train.image_size, fold=fold, **asdict(counts))


def find_start(
    run: Run, config: RunConfig, train_config: TrainConfig, inputs: TrainingInputs, newest: TrainedModel | None
) -> TrainedModel | None:
    """Find the model that a training starts from; a named bundle is given the labels of the run.

    Args:
        run: the folder of the run.
        config: of the run.
        train_config: section of the training.
        inputs: the label system and the encoder of new labels.
        newest: the model before it.

    Returns:
        The newest or a given model; None: the backbone that `represent` trained, or new weights.
    """
    if train_config.bundle is None:
        return newest if train_config.start == "previous" else None
    return give_model(
        run,
        config,
        inputs.labels,
        inputs.dual_encoder,
        source=train_config.bundle,
        revision=train_config.start_revision,
    )


def check_start(model: ModelConfig, train: TrainConfig, *, section: str) -> None:
    """Check that a model of a bundle can be trained as a section says.

    Args:
        model: sizes and parts of the bundle.
        train: settings of the training.
        section: name of the section.

    Raises:
        ValueError: with the settings to change.
    """
    fixes = []
    if train.caption_loss and not model.captions:
        fixes.append(f"{section}.caption_loss to false: the model that it starts from writes no captions")
    if train.distill_loss and model.architecture == "tag2text":
        fixes.append(f"{section}.distill_loss to false: Tag2Text does not distill")
    if fixes:
        raise ValueError(f"set {'; '.join(fixes)}")
    unit = model.swin.patch_size * 2 ** (len(model.swin.depths) - 1)
    if not model.image_encoder.name and train.image_size % unit:
        raise ValueError(
            f"{section}.image_size: {train.image_size} is not a multiple of {unit}, the smallest grid of the model it "
            f"starts from, whose own size is {model.image_size}; set {section}.image_size"
        )
