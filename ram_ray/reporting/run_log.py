"""The log of a run: it listens to the results of the stages, logs a line for each, and writes the reports.

It is the only object that keeps something during a run: the lines of the closing table and of report.json, the notes
below the table, the folders of the trained models, whose loss curves the report shows, and the annotations that the
page of the data engine compares. It knows results by their class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ram_ray.config import RunConfig
from ram_ray.evaluation.metrics import Summary
from ram_ray.evaluation.stages import read_summary
from ram_ray.evaluation_results import Evaluation, SetScore
from ram_ray.models.label_match import MATCH_FILE
from ram_ray.reporting.class_reports import ClassReports
from ram_ray.reporting.duplicate_page import describe_counts, report_duplicates
from ram_ray.reporting.engine_report import report_engine
from ram_ray.reporting.loss_curves import read_loss_curves
from ram_ray.reporting.run_report import StageLine, build_report, closing_table, write_report
from ram_ray.reporting.set_report import describe_score, write_sets
from ram_ray.reporting.stage_cost import cost_of
from ram_ray.results import (
    Annotations,
    DualEncoderResult,
    Duplicates,
    GivenModel,
    LabelSystemResult,
    Parsed,
    Samples,
    TrainedModel,
)
from ram_ray.runtime.artifacts import Run, StageResult

logger = logging.getLogger(__name__)


class RunLog:
    """Listens to one run; `open` gives the run that it listens to."""

    def __init__(self) -> None:
        self.lines: list[StageLine] = []
        self.notes: list[str] = []  # below the closing table
        self._steps: list[Annotations] = []  # of the data engine, the first annotations before them
        self._labels: LabelSystemResult | None = None
        self._duplicates: Duplicates | None = None
        self._scores_models = False  # there are held-out images
        self._unscored: tuple[TrainedModel, StageLine] | None = None  # its line waits for the evaluation
        self._digests: set[tuple[str, str]] = set()
        self._set_scores: list[SetScore] = []
        self._looked_at = ClassReports()
        self._trained: dict[str, str] = {}  # stage -> URI of the model's folder, for models that the run trained

    def open(self, uri: str, *, last: str | None = None) -> Run:
        """Open the folder of a run, and listen to it.

        Args:
            uri: folder or URI of the run.
            last: name of the last stage of the recipe; None: all stages.

        Returns:
            The run.
        """
        return Run(uri, on_result=self.on_result, on_note=self.on_note, last=last)

    def on_result(self, result: StageResult, is_reused: bool) -> None:
        """Take a result of the run; each is taken once.

        A model of the recipe is logged when it is scored, other results at once. Held-out rows and the steps of a
        stage are not logged.

        Args:
            result: of a finished stage.
            is_reused: whether an earlier call left it.
        """
        if (result.stage, result.digest) in self._digests:
            return
        self._digests.add((result.stage, result.digest))
        self._looked_at.add(result)
        if isinstance(result, (TrainedModel, DualEncoderResult)) and result.steps is not None:
            self._trained[result.stage] = result.path
        if isinstance(result, GivenModel):
            self.on_note(describe_given(result))
        if isinstance(result, Duplicates):
            self._duplicates = result
        if isinstance(result, LabelSystemResult):
            self._labels = result
        elif isinstance(result, (Samples, Parsed, Annotations)) and result.held_out:
            self._scores_models = True
        elif isinstance(result, (Evaluation, SetScore)):
            if self._unscored and self._unscored[0].digest == result.model:
                mean = result.mAP if isinstance(result, Evaluation) else None  # there are named sets alone
                self._add(replace(self._unscored[1], mAP=mean))
                self._unscored = None
            if isinstance(result, SetScore):
                self._set_scores.append(result)
                self.on_note(describe_score(result))
        elif line := to_line(result, is_reused=is_reused):
            if isinstance(result, TrainedModel) and result.fold is None and self._scores_models:
                self._unscored = result, line
            else:
                self._add(line)
            if isinstance(result, Annotations):
                self._steps.append(result)

    def on_note(self, text: str) -> None:
        """Log a note, and keep it for the closing table.

        Args:
            text: a line.
        """
        self.notes.append(text)
        logger.info("%s", text)

    def table(self) -> str:
        """The closing table, with the notes below it."""
        return "\n".join([closing_table(self.lines), *self.notes])

    def write_report(self, run: Run, config: RunConfig, score: Evaluation | None) -> None:
        """Write evaluation/report.json, and report.html with the loss curves of the models that the run trained.

        Args:
            run: gets the files.
            config: of the run.
            score: of the final model; None: without evaluation data the report has the stages alone.
        """
        summary: Summary = read_summary(score) if score else {}
        images = score.images if score else 0
        evaluated = "the finetuned model on held-out images" if score else "nothing: no evaluation data was given"
        duplicates = describe_counts(self._duplicates) if self._duplicates else ()
        report = build_report(
            summary,
            [replace(line, cost=cost_of(line.used, config.resources)) for line in self.lines],
            run=config.name,
            evaluated=evaluated,
            images=images,
            duplicates=duplicates,
            scores=self._set_scores,
        )
        write_report(
            run.path("evaluation"),
            report,
            curves=read_loss_curves(self._trained),
            scores=self._set_scores,
            class_pages=self._looked_at.links,
        )

    def write_class_pages(self, run: Run, config: RunConfig, *, has_report: bool) -> None:
        """Write evaluation/classes/: what there is to look at of each class of the newest model.

        Args:
            run: gets the files.
            config: of the run.
            has_report: whether the run has a report.html, which the pages link to.
        """
        for line in self._looked_at.write(run, name=config.name, execution=config.execution, has_report=has_report):
            self.on_note(line)

    def write_sets(self, run: Run) -> None:
        """Write evaluation/sets.json and sets.md, where models were scored on evaluation sets.

        Args:
            run: gets the files.
        """
        if self._set_scores:
            write_sets(run.path("evaluation"), self._set_scores)

    def write_engine_report(self, run: Run, config: RunConfig) -> None:
        """Write evaluation/engine.html, where the data engine has done something.

        Args:
            run: gets the file.
            config: of the run.
        """
        if self._labels and len(self._steps) > 1:
            report_engine(run, config, self._steps, self._labels)

    def write_duplicates_page(self, run: Run, config: RunConfig) -> None:
        """Write evaluation/duplicates.html, where there are duplicates.

        Args:
            run: gets the file.
            config: of the run.
        """
        if self._duplicates and self._duplicates.counts:
            report_duplicates(run, self._duplicates, name=config.name, execution=config.execution)

    def _add(self, line: StageLine) -> None:
        self.lines.append(line)
        logger.info("%s: %s", "reused" if line.reused else "done", format_line(line))


def to_line(result: StageResult, *, is_reused: bool) -> StageLine | None:
    """The line of a result in the closing table and in the report.

    Args:
        result: of a finished stage.
        is_reused: whether an earlier call left it.

    Returns:
        The line; None for a result that has none.
    """
    line = StageLine(result.stage, seconds=result.seconds, reused=is_reused, used=result.used)
    match result:
        case Samples():
            return replace(line, images=result.images, rejected=result.rejected)
        case Parsed():
            return replace(line, images=result.images, tags=result.tags, rejected=result.rejected)
        case Annotations():
            truth = result.truth
            return replace(
                line,
                images=result.images,
                tags=result.tags,
                rejected=result.rejected,
                precision=truth.precision if truth else None,
                recall=truth.recall if truth else None,
            )
        case GivenModel():
            return line
        case TrainedModel() | DualEncoderResult():
            return replace(line, images=result.images_seen, rejected=result.rejected)
    return None


def describe_given(model: GivenModel) -> str:
    """How the labels of a given model were matched, in one line.

    Args:
        model: the model.

    Returns:
        The counts, and where the names are.
    """
    return (
        f"{model.stage}: {model.source} has {model.kept:,} of {model.kept + model.new:,} labels "
        f"({model.by_synonym:,} by a synonym); {model.new:,} are new, {model.dropped:,} of its own are dropped; names "
        f"in {model.path}/{MATCH_FILE}"
    )


def format_line(line: StageLine) -> str:
    """One stage in one line.

    Args:
        line: of the stage.

    Returns:
        Its name and what was measured, separated by commas.
    """
    measures: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("images", line.images, "{:,}".format),
        ("rejected", line.rejected or None, "{:,}".format),
        ("tags", line.tags, "{:,}".format),
        ("precision", line.precision, "{:.3f}".format),
        ("recall", line.recall, "{:.3f}".format),
        ("mAP", line.mAP, "{:.3f}".format),
        ("s", line.seconds, "{:.0f}".format),
    ]
    values = [f"{show(value)} {name}" for name, value, show in measures if value is not None]
    return ", ".join([line.stage, *values])
