"""The recipe, in the paper's order. Each stage takes what the stages before it returned, and is skipped when done.

    shards -> represent -> parse -> labels -> pretrain -> [ generate -> clean -> retrain ] x rounds
           -> finetune -> evaluate -> serve

Read `Pipeline.flow` first: it is the whole system on one page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ram_ray.config import RunConfig, dump
from ram_ray.data.collect import collect, draw_corpus
from ram_ray.data.ground_truth import Counts
from ram_ray.data.parts import Part
from ram_ray.data_engine.clean_stages import clean, samples_uri
from ram_ray.data_engine.generate_stages import generate
from ram_ray.evaluation.stages import evaluate, read_summary
from ram_ray.labels.stages import build_labels, label_captions, label_system_uri, parse
from ram_ray.reporting.engine_report import CURVE, report_engine
from ram_ray.reporting.run_report import StageLine, build_report, closing_table, write_report
from ram_ray.runtime.artifacts import Manifest, Run
from ram_ray.runtime.screen import print_line
from ram_ray.settings.training import TrainConfig
from ram_ray.synthesis.represent import represent
from ram_ray.training.trainer import train_tagger
from ram_ray.training.vocabulary import build_vocabulary

STAGES = ("shards", "represent", "parse", "labels", "pretrain", "generate", "clean", "retrain", "finetune", "evaluate")


class Finished(Exception):
    """The last stage that was asked for is done."""


@dataclass(frozen=True)
class Given:
    """What every training run of a recipe takes beside annotations, and what its model is scored on."""

    labels: Manifest
    teacher: Manifest
    vocabulary: Manifest
    truth: Manifest | None  # held-out annotations


class Pipeline:
    """One run: its configuration, its folder, and what its stages have left so far.

    Args:
        config: of the run.
        run_uri: folder or URI of the run.
        last: name of the last stage.
    """

    def __init__(self, config: RunConfig, run_uri: str, *, last: str = "evaluate") -> None:
        assert last in STAGES, last
        self.config, self.run, self.last = config, Run(run_uri), last
        self.lines: list[StageLine] = []
        self.notes: list[str] = []  # what else the closing table says
        self.model: Manifest | None = None  # the newest one
        self.judges: list[Manifest] = []  # the newest models that look at all pictures: one, or one a part of them
        self.scenes: list[str] = []  # URIs of held-out shards
        self.made: dict[str, Manifest] = {}  # by stage

    def __call__(self) -> None:
        """Run the stages up to `last`; what an earlier call has done is not done again."""
        self.run.write_text("config.yaml", dump(self.config))
        with contextlib.suppress(Finished):
            self.flow()
        self.look()

    def flow(self) -> None:
        """The recipe."""
        config, run = self.config, self.run
        train, held_out = self._uris()

        shards = self.keep(collect(run, config, name="shards", uris=train))
        truth = collect(run, config, name="shards_eval", uris=held_out, held_out=True) if held_out else None
        self.done("shards")

        vocabulary = build_vocabulary(run, config, shards)
        teacher = self.keep(represent(run, config, shards, vocabulary))
        self.done("represent")

        parsed = self.keep(parse(run, config, shards))
        self.done("parse")

        labels = build_labels(run, config, parsed, teacher)
        annotations = self.keep(label_captions(run, config, parsed, labels))
        if truth:
            truth = parse(run, config, truth, name="parse_eval")
            truth = label_captions(run, config, truth, labels, name="labels_eval", held_out=True)
        self.done("labels")

        self.given, fit = Given(labels, teacher, vocabulary, truth), self.fit

        rounds = config.engine.rounds
        self.model = fit("pretrain", config.pretrain, annotations, judges=rounds > 0)
        self.done("pretrain")

        for round in range(1, rounds + 1):
            before = annotations
            annotations = self.keep(generate(run, config, annotations, self.judges, labels, round=round))
            self.done("generate")
            annotations = self.keep(clean(run, config, annotations, self.judges, labels, teacher, round=round))
            self.done("clean")
            if self.settled(before, annotations, round=round):
                break
            self.model = fit(f"retrain_{round}", config.retrain, annotations, judges=round < rounds)
        for name in ("generate", "clean", "retrain"):  # without a round the engine has nothing to do
            self.done(name)

        self.model = fit("finetune", config.finetune, annotations)
        self.done("finetune")

        self.report(evaluate(run, config, truth, self.model, labels) if truth else None)

    def fit(self, name: str, settings: TrainConfig, annotations: Manifest, *, judges: bool = False) -> Manifest:
        """Train a model from the newest one or from `represent`'s backbone, and score it.

        With `judges`, a round follows, in which `self.judges` look at all pictures. Where their scores are
        calibrated, it is on pictures that they did not see: the model leaves some out, or there are more models, each
        of which leaves out the part that it judges and starts from the one before it that did.

        Args:
            name: of the stage.
            settings: of this training.
            annotations: stage that left the rows to train on.
            judges: a round of the data engine follows.

        Returns:
            The model's manifest.
        """
        engine, truth = self.config.engine, self.given.truth
        model = self.train(name, settings, annotations, self.model, self.holdout if judges else None)
        self.keep(model, score=evaluate(self.run, self.config, truth, model, self.given.labels) if truth else None)
        if judges and engine.folds > 1:
            before: list[Manifest | None] = [*self.judges] or [None] * engine.folds
            parts = [Part.number(number, engine.folds) for number in range(engine.folds)]
            self.judges = [
                self.keep(self.train(f"{name}_fold_{number}", settings, annotations, start, part))
                for number, (start, part) in enumerate(zip(before, parts, strict=True))
            ]
        elif judges:
            self.judges = [model]
        return model

    @property
    def holdout(self) -> Part | None:
        """What a model that judges all pictures leaves out, where its scores are calibrated."""
        engine = self.config.engine
        alone = engine.folds == 1 and engine.generate.precision is not None
        return Part.share(engine.holdout) if alone else None

    def train(
        self, name: str, settings: TrainConfig, annotations: Manifest, newest: Manifest | None, left_out: Part | None
    ) -> Manifest:
        """One run of the one trainer, on all pictures but those left out.

        Args:
            name: of the stage.
            settings: of this training.
            annotations: stage that left the rows to train on.
            newest: model to start from where `settings.start` is "previous"; None: the backbone.
            left_out: pictures that are not trained on.
        """
        config, given = self.config, self.given
        before = newest if settings.start == "previous" else None
        identity = {"train": settings, "training": config.training, "model": config.model, "seed": config.seed}
        identity |= {"left_out": [left_out.start, left_out.end]} if left_out else {}
        inputs = [annotations, given.labels, given.teacher, given.vocabulary, *([before] if before else [])]
        stage = self.run.stage(name, kind="models", config=identity, inputs=inputs)
        if stage.manifest:
            return stage.manifest
        counts = train_tagger(
            stage,
            config=settings,
            run=config,
            annotations=annotations.path,
            num_rows=annotations.counts["rows_out"],
            label_system=label_system_uri(given.labels.path),
            teacher=given.teacher.counts["source"],
            teacher_revision=given.teacher.counts["revision"],
            tokenizer=given.vocabulary.path,
            start=before.path if before else None,
            left_out=left_out,
        )
        return stage.finish(image_size=settings.image_size, images=counts["images_seen"], **counts)

    def settled(self, before: Manifest, after: Manifest, *, round: int) -> bool:
        """Whether a round added and removed so few tags that training on them, and another round, are not worth it.

        Args:
            before: annotations that the round began with.
            after: annotations that it ended with.
            round: its number.
        """
        between = self.made[f"generate_{round}"].counts
        added, removed = between["added"], between["tags"] - after.counts["tags"]
        change, least = (added + removed) / max(1, before.counts["tags"]), self.config.engine.min_change
        if change >= least:
            return False
        self.notes.append(
            f"stopped in round {round}: it added {added:,} tags and removed {removed:,}, {change:.2%} of those that it "
            f"began with, and engine.min_change is {least:.2%}"
        )
        print_line(self.notes[-1])
        return True

    def keep(self, manifest: Manifest, *, score: Manifest | None = None) -> Manifest:
        """Note a stage for the closing table, and say in one line what it left.

        Args:
            manifest: of the stage.
            score: of its model, if it was scored.
        """
        counts = manifest.counts
        truth = Counts(counts["tp"], counts["fp"], counts["fn"]) if counts.get("labelled") else None
        line = StageLine(
            stage=manifest.stage,
            images=counts.get("images"),
            tags=counts.get("tags"),
            seconds=manifest.seconds,
            precision=truth.precision if truth else None,
            recall=truth.recall if truth else None,
            mAP=score.counts["mAP"] if score else None,
            rejected=counts.get("rejected"),
            reused=manifest in self.run.reused,
        )
        self.lines.append(line)
        self.made[manifest.stage] = manifest
        print_line(f"{'reused' if line.reused else 'done'}: {say(line)}")
        return manifest

    def done(self, name: str) -> None:
        """End the run here if this was the last stage that was asked for.

        Args:
            name: of the stage that has just ended.

        Raises:
            Finished: if it was the last.
        """
        if name == self.last:
            raise Finished

    def report(self, score: Manifest | None) -> None:
        """Write evaluation/report.json and report.html; without evaluation data, the stages alone."""
        summary: dict[str, Any] = read_summary(score) if score else {}
        images = score.counts["images"] if score else 0
        evaluated = "the finetuned model on held-out images" if score else "nothing: no evaluation data was given"
        report = build_report(summary, self.lines, run=self.config.name, evaluated=evaluated, images=images)
        write_report(self.run.path("evaluation"), report)

    def look(self) -> None:
        """Write evaluation/engine.html, where the data engine has done something."""
        steps = [one for name, one in self.made.items() if name.startswith(("generate_", "clean_"))]
        if steps:
            crops = [samples_uri(self.run, one) for one in steps if "removals" in one.counts]
            newest = [one for one in steps if one.stage.startswith("generate_")][-1]
            report_engine(
                self.run,
                self.config,
                [self.made["labels"], *steps],
                self.given.labels,
                crops=crops,
                curve=f"{newest.path}/{CURVE}",
            )

    def table(self) -> str:
        """The closing table."""
        return "\n".join([closing_table(self.lines), *self.notes])

    def _uris(self) -> tuple[list[str], list[str]]:
        data = self.config.data
        if data.train:
            self.scenes = data.eval
            return data.train, data.eval
        drawn_train, drawn_eval = draw_corpus(self.run, self.config)
        self.scenes = data.eval or drawn_eval
        return drawn_train, self.scenes


def say(line: StageLine) -> str:
    """One stage in one line."""
    parts = [line.stage]
    measures: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("images", line.images, lambda value: f"{value:,}"),
        ("rejected", line.rejected or None, lambda value: f"{value:,}"),
        ("tags", line.tags, lambda value: f"{value:,}"),
        ("precision", line.precision, lambda value: f"{value:.3f}"),
        ("recall", line.recall, lambda value: f"{value:.3f}"),
        ("mAP", line.mAP, lambda value: f"{value:.3f}"),
        ("s", line.seconds, lambda value: f"{value:.0f}"),
    ]
    parts += [f"{show(value)} {name}" for name, value, show in measures if value is not None]
    return ", ".join(parts)
