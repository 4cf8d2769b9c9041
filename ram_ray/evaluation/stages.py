"""The stage `evaluate`: a model's scores on labelled images, on Ray Data.

    annotations -> read and decode (tasks, CPU) -> model (actor pool) -> parts of `score_files` (tasks)

Tasks then reduce the parts, by blocks of tags, to figures and to what there is to look at of each tag
(`class_details`). The scores are deleted when the stage is done.
"""

from __future__ import annotations

import json

import fsspec
from pydantic import Field

from ram_ray.config import RunConfig
from ram_ray.data.pixels import with_pixels
from ram_ray.evaluation.class_details import CLASSES_FILE, describe_classes, write_details
from ram_ray.evaluation.measure_scores import on_cluster
from ram_ray.evaluation.metrics import Summary, summarise
from ram_ray.evaluation.score_set import write_parts
from ram_ray.evaluation.scorer import KeyedScorer
from ram_ray.evaluation.systems.system import NEVER
from ram_ray.evaluation_results import Evaluation
from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import read_config
from ram_ray.results import Annotations, LabelSystemResult, TrainedModel
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.rows import drop_rejected, read_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.settings.section import RUNTIME_ONLY, StageSettings


class EvaluationSettings(StageSettings):
    """All that the scores of a model depend on, beside the images and the model."""

    min_positives: int
    batch_size: int = Field(json_schema_extra=RUNTIME_ONLY)

    @classmethod
    def from_config(cls, config: RunConfig) -> EvaluationSettings:
        """Take the settings out of the configuration of the run."""
        return cls(min_positives=config.evaluate.min_positives, batch_size=config.evaluate.batch_size)


def evaluate(
    run: Run, config: RunConfig, labelled: Annotations, model: TrainedModel, labels: LabelSystemResult
) -> Evaluation:
    """Score a model on annotated images, and write summary.json and what there is to look at of each tag.

    Args:
        run: the run that gets the stage's folder.
        config: of the run.
        labelled: annotations of the images to score on.
        model: the model.
        labels: the label system.

    Returns:
        The averages of `metrics.summarise`.
    """
    settings, execution = EvaluationSettings.from_config(config), config.execution
    stage = run.stage(f"evaluate_{model.stage}", Evaluation, settings=settings, inputs=[labelled, model])
    if stage.result:
        return stage.result
    cpus, system = execution.task_cpus, LabelSystem.load(labels.uri)
    served = read_config(model.path)  # thresholds and muted tags: counted are the tags that the served model returns
    thresholds, muted = system.thresholds(served.threshold), served.muted
    dataset = read_rows(labelled.path, execution=execution).map_batches(
        drop_rejected, batch_format="pyarrow", batch_size=None, num_cpus=cpus
    )
    images = with_pixels(dataset, size=model.image_size, batch_size=settings.batch_size, execution=execution)
    scored = images.map_batches(
        KeyedScorer,
        fn_constructor_args=(model.path,),
        fn_constructor_kwargs=predictor_options(execution),
        batch_format="numpy",
        batch_size=settings.batch_size,
        **model_actors(execution.resources),
    )
    scores = f"{stage.work}/scores"
    remove_folder(*fsspec.url_to_fs(scores))  # of a try that was killed
    write_parts(scored, scores, cpus=cpus)
    asked = thresholds.copy()
    asked[list(muted)] = NEVER
    details = describe_classes(scores, names=system.names, thresholds=asked, run_tasks=on_cluster(cpus))
    write_details(details, f"{stage.path}/{CLASSES_FILE}")
    rows = [{**row, "tag": row["index"], "threshold": float(thresholds[row["index"]])} for row in details]
    summary = summarise(
        rows,
        names=system.names,
        kinds=[label.kind for label in system.labels],
        min_positives=settings.min_positives,
    )
    write_text(f"{stage.path}/summary.json", json.dumps(summary))
    averages = {name: value for name, value in summary.items() if name != "per_tag"}
    return stage.finish(images=labelled.rows_out, model=model.digest, **averages)


def read_summary(score: Evaluation) -> Summary:
    """Read the summary of an `evaluate` stage.

    Args:
        score: the stage's result.

    Returns:
        The dict of `metrics.summarise`.
    """
    with fsspec.open(score.summary, "r") as file:
        return json.load(file)
