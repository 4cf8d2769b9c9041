"""Rows of an ablation whose models are the run's `pretrain`, each with another configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ram_ray.config import RunConfig, dump
from ram_ray.evaluation.stages import evaluate
from ram_ray.evaluation_results import Evaluation
from ram_ray.pipeline import Inputs, find_data, prepare, train_and_score
from ram_ray.reporting.run_log import RunLog
from ram_ray.results import Annotations, TrainedModel


@dataclass(frozen=True)
class TrainedRow:
    """A row: what its model was trained on, and the score of the model on the held-out images."""

    name: str
    annotations: Annotations
    inputs: Inputs
    held_out: Annotations
    model: TrainedModel
    score: Evaluation


def train_rows(variants: Mapping[str, RunConfig], run_uri: str) -> Iterator[TrainedRow]:
    """Train the rows in turn, in one run folder: they share each stage that their configurations do not change.

    Args:
        variants: configuration of each row, in their order; all hold images out.
        run_uri: folder of the run.

    Yields:
        A row, when its model is scored.
    """
    for name, config in variants.items():
        run = RunLog().open(run_uri)
        run.write_text("config.yaml", dump(config))
        annotations, inputs = prepare(run, config, *find_data(run, config))
        model = train_and_score(run, config, config.pretrain, annotations, inputs, name="pretrain")
        assert inputs.held_out is not None  # see `runs.check_config`
        score = evaluate(run, config, inputs.held_out, model, inputs.labels)
        yield TrainedRow(name, annotations, inputs, inputs.held_out, model, score)
