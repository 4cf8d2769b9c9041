"""The stages about evaluation sets: a named set made ready once, and a model scored on a set after its training.

Protocol and figures are those of `jobs/benchmark.py`: a class is answered by a label, by a label query, or named as not
supported; each set is reported by itself. With `evaluate.descriptions` a model is scored twice, asked for the classes
that are no labels by its templates and by the texts of the file, and the difference has a paired test.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ram_ray.config import RunConfig
from ram_ray.data.collect import ListedShard, collect
from ram_ray.data.shards import list_shards
from ram_ray.evaluation.bootstrap import Resampling
from ram_ray.evaluation.class_details import CLASSES_FILE, describe_classes, write_details
from ram_ray.evaluation.comparison import compare_figures
from ram_ray.evaluation.measure_scores import Measured, Measuring, measure_scores, on_cluster
from ram_ray.evaluation.score_set import plan_classes, score_set
from ram_ray.evaluation.sets.prepare import RunTasks, SetReading, prepare_set, read_prepared
from ram_ray.evaluation.sets.spec import SetSpec
from ram_ray.evaluation.stages import evaluate
from ram_ray.evaluation.systems.bundle import BundleSystem
from ram_ray.evaluation_results import PreparedSet, SetFigures, SetScore
from ram_ray.labels.lists import shipped_lists
from ram_ray.records import Json
from ram_ray.results import Annotations, LabelSystemResult, Samples, TrainedModel
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.input_file import InputFile
from ram_ray.settings.section import RUNTIME_ONLY, StageSettings

FILES = ("classes", "descriptions", "map", "leave_out")  # options that are files
QUERIES = ("templates", "descriptions")


class NamedSetSettings(StageSettings):
    """All that a named evaluation set depends on: its options, and the content of its files."""

    text: str = Field(json_schema_extra=RUNTIME_ONLY)  # as `SetSpec.parse` reads it
    options: tuple[str, ...]
    files: tuple[InputFile, ...]
    shards: tuple[ListedShard, ...]
    folder: str | None  # digest of a folder of masks, or of a prepared set
    images: str | None
    reading: SetReading

    @classmethod
    def from_config(cls, config: RunConfig, *, spec: SetSpec) -> NamedSetSettings:
        """Take the settings out of the configuration of the run, and read the digests of the files.

        Args:
            config: of the run.
            spec: the set, with absolute paths.

        Returns:
            The settings.

        Raises:
            ValueError: if a file cannot be read, or names no shards.
        """
        reading = SetReading.from_config(config)
        paths = [getattr(spec, name) for name in FILES]
        shards, folder = [], None
        if spec.format == "shards":
            shards = list_shards(
                [spec.truth, *spec.more], folders=reading.shard_folders, images=spec.images, layout=reading.layout
            )
        elif spec.format == "ade20k":
            folder = content_digest(spec.truth, files=("*.png",))
        elif spec.format == "prepared":
            folder = read_prepared(spec.truth).identity
        else:
            paths.append(spec.truth)
        listed = [path for path in paths if path in shipped_lists()]
        return cls(
            text=spec.to_text(),
            options=(spec.name, spec.format, f"{spec.min_area:g}", spec.ambiguous, spec.unverified, *listed),
            files=tuple(file for path in paths if path not in listed and (file := InputFile.find(path))),
            shards=tuple(
                ListedShard(name=shard.name, uri=shard.uri, size=shard.size, changed=shard.version, format=shard.format)
                for shard in shards
            ),
            folder=folder,
            images=spec.images,
            reading=reading,
        )


class SetScoreSettings(StageSettings):
    """All that the figures of a model depend on, beside the set and the model."""

    min_positives: int
    replicates: int
    descriptions: InputFile | None
    batch_size: int = Field(json_schema_extra=RUNTIME_ONLY)

    @classmethod
    def from_config(cls, config: RunConfig) -> SetScoreSettings:
        """Take the settings out of the configuration of the run."""
        evaluate = config.evaluate
        return cls(
            min_positives=evaluate.min_positives,
            replicates=evaluate.replicates,
            descriptions=InputFile.find(evaluate.descriptions),
            batch_size=evaluate.batch_size,
        )


def named_sets(config: RunConfig) -> list[SetSpec]:
    """Read the named sets of a configuration.

    Args:
        config: of the run; paths are absolute.

    Returns:
        The sets.

    Raises:
        ValueError: if one has another form, or two have one name.
    """
    specs = [SetSpec.parse(text) for text in config.evaluate.sets]
    counts = Counter(spec.name for spec in specs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"--eval: two sets have the name {twice[0]!r}; write another name for one")
    return specs


def collect_named(run: Run, config: RunConfig) -> list[Samples]:
    """Collect the named sets that are shards, so that copies of their images are not trained on.

    Args:
        run: the run; the folders of the stages are created in it.
        config: of the run.

    Returns:
        The rows of each.
    """
    return [
        collect(run, config, name=f"shards_eval_{spec.name}", uris=[spec.truth], held_out=True)
        for spec in named_sets(config)
        if spec.format == "shards" and spec.images is None
    ]


def score_model(
    run: Run,
    config: RunConfig,
    model: TrainedModel,
    labels: LabelSystemResult,
    *,
    held_out: Annotations | None,
    sets: Sequence[PreparedSet],
) -> None:
    """Score a model on the held-out images, if there are any, and on each evaluation set.

    Args:
        run: the run; the folders of the stages are created in it.
        config: of the run.
        model: the model.
        labels: the label system of the run.
        held_out: annotations of the held-out images.
        sets: named sets, and that of held-out labels.
    """
    if held_out:
        evaluate(run, config, held_out, model, labels)
    for prepared in sets:
        evaluate_on_set(run, config, model, prepared)


def prepare_named_set(run: Run, config: RunConfig, spec: SetSpec) -> PreparedSet:
    """Run the stage `eval_set`: read a named set, and write its rows.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        spec: the set, with absolute paths.

    Returns:
        The set.

    Raises:
        ValueError: if a file is wrong.
    """
    settings, execution = NamedSetSettings.from_config(config, spec=spec), config.execution
    stage = run.stage(f"eval_set_{spec.name}", PreparedSet, settings=settings, inputs=[])
    if stage.result:
        return stage.result
    run_tasks = on_cluster(execution.task_cpus)
    eval_set = prepare_set(spec, stage.path, reading=settings.reading, run_tasks=run_tasks)
    if not eval_set.has_images:
        raise ValueError(f"--eval {spec.name}: names no images to score a model on; add images=FOLDER")
    return stage.finish(
        set_name=spec.name,
        images=eval_set.images,
        rejected=eval_set.rejected,
        classes=len(eval_set.classes),
        left_out=len(eval_set.left_out),
    )


def evaluate_on_set(run: Run, config: RunConfig, model: TrainedModel, prepared: PreparedSet) -> SetScore:
    """Run the stage `evaluate` of a model on a set, and write summary.json and what there is to look at of each class.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        model: the model.
        prepared: the set.

    Returns:
        The figures; none of a model that answers for no class of the set.
    """
    settings, execution = SetScoreSettings.from_config(config), config.execution
    name = f"evaluate_{model.stage}_{prepared.set_name}"
    stage = run.stage(name, SetScore, settings=settings, inputs=[model, prepared])
    if stage.result:
        return stage.result
    eval_set, measuring = read_prepared(prepared.path, name=prepared.set_name), measuring_of(settings)
    measured: dict[str, Measured] = {}
    for queries in QUERIES[: 2 if settings.descriptions else 1]:
        texts = settings.descriptions if queries == "descriptions" else None
        system = BundleSystem(model.stage, model.path, descriptions=texts.uri if texts else None)
        if not plan_classes(system, eval_set).classes:  # no reason to end a run
            break
        folder = f"{stage.work}/{queries}"
        score_set(system, eval_set, folder, batch_size=settings.batch_size, execution=execution)
        run_tasks = on_cluster(execution.task_cpus)
        measured[queries] = measure_scores(folder, measuring, run_tasks=run_tasks)
        details = describe_measured(folder, measured[queries], run_tasks=run_tasks)
        write_details(details, f"{stage.path}/{queries}_{CLASSES_FILE}")
    summaries = {queries: result.summary(min_positives=settings.min_positives) for queries, result in measured.items()}
    for queries, result in measured.items():
        summaries[queries]["matched_by"] = dict(zip(result.manifest.classes, result.manifest.matched_by, strict=True))
        summaries[queries] |= {"unsupported": result.manifest.unsupported, "notes": result.manifest.notes}
    write_text(f"{stage.path}/summary.json", json.dumps(summaries, indent=1, ensure_ascii=False))
    figures = {queries: to_figures(result, summaries[queries]) for queries, result in measured.items()}
    return stage.finish(
        model=model.digest,
        model_stage=model.stage,
        set_name=prepared.set_name,
        images=next((result.manifest.images for result in measured.values()), prepared.images),
        figures=figures or {QUERIES[0]: SetFigures(unsupported=prepared.classes)},
        difference=compare(list(measured.values()), min_positives=settings.min_positives),
    )


def describe_measured(folder: str, measured: Measured, *, run_tasks: RunTasks) -> list[Json]:
    """Describe the classes of a system at its own thresholds, or else at its one threshold.

    Args:
        folder: of its scores.
        measured: its figures.
        run_tasks: runs the work on blocks and parts.

    Returns:
        Rows of `class_details`.
    """
    manifest = measured.manifest
    own = manifest.thresholds or [measured.threshold] * len(manifest.classes)
    return describe_classes(folder, names=manifest.classes, thresholds=np.array(own, np.float32), run_tasks=run_tasks)


def measuring_of(settings: SetScoreSettings) -> Measuring:
    """How scores are measured: at the threshold with the best macro F1, with intervals.

    Args:
        settings: of the stage.

    Returns:
        The settings of `measure_scores`.
    """
    return Measuring(resampling=Resampling(settings.replicates), min_positives=settings.min_positives)


def to_figures(measured: Measured, summary: Json) -> SetFigures:
    """The figures of a model on a set.

    Args:
        measured: its scores.
        summary: as of `Measured.summary`.

    Returns:
        The averages.
    """
    interval = summary["mAP"]["interval"]
    return SetFigures(
        num_classes=summary["num_classes"],
        matched_by=dict(Counter(measured.manifest.matched_by)),
        unsupported=len(measured.manifest.unsupported),
        mAP=summary["mAP"]["value"],
        interval=tuple(interval) if interval else None,
        mean_prevalence=summary["mean_prevalence"],
        **{name: summary[f"macro_{name}"]["value"] for name in ("precision", "recall", "f1")},
        threshold=summary["threshold"],
    )


def compare(measured: Sequence[Measured], *, min_positives: int) -> Json | None:
    """Compare the two ways to ask for classes.

    Args:
        measured: of templates, and of descriptions where there are any.
        min_positives: fewest positives of a class that is compared.

    Returns:
        The difference of mAP, as of `comparison.compare_figures`; None with one of them.
    """
    if len(measured) < 2:
        return None
    return compare_figures(measured[0].figures, measured[1].figures, min_positives=min_positives)["mAP"]
