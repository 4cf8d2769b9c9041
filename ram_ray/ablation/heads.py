"""The table of heads: ours, ML-Decoder and MKT, trained by the same trainer on the same images, tags and encoder.

    ours               `config.model` as it is
    ml_decoder         ML-Decoder with group queries (`model.ml_decoder`)
    ml_decoder_texts   its open-set form: label queries from text embeddings
    mkt                MKT with the ranking loss, and distillation where the run has a dual encoder
    mkt_own_loss       MKT with the loss of the other rows, without distillation

Each row is the run's `pretrain` with another head, and no captioner: all learn tags alone. The rows of a seed share the
stages before it in one run folder, and with `pretrain.views` the encoder's tokens. The models of a seed are then scored
on the held-out images as `jobs/benchmark.py` scores systems, with the tags of these images as the truth: every figure
with its interval, each model against ours with a paired test.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

import fsspec

from ram_ray.ablation.held_out_set import SET_NAME, make_set, write_benchmark
from ram_ray.ablation.trained import train_rows
from ram_ray.ablation.variants import Changes, Figures, vary
from ram_ray.config import RunConfig
from ram_ray.evaluation.benchmark import SetResult
from ram_ray.evaluation.measure_scores import Measuring, measure_scores, on_cluster
from ram_ray.evaluation.score_set import score_set
from ram_ray.evaluation.systems.bundle import BundleSystem
from ram_ray.evaluation.systems.system import Plan, PlannedClass
from ram_ray.label_system import LabelSystem
from ram_ray.labels.lists import Entry

OURS = "ours"


class OwnLabels(BundleSystem):
    """A bundle that is scored on its own labels, by their ids: two of one name and different kinds stay apart."""

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Answer for each class with the label of its index, see `System.plan`."""
        thresholds = self.labels().thresholds(self._config.threshold)
        return Plan(
            tuple(
                PlannedClass(index, entry.name, "name", entry.name, (index,), float(thresholds[index]))
                for index, entry in enumerate(classes)
            )
        )


def head_variants(config: RunConfig) -> dict[str, RunConfig]:
    """The rows as configurations.

    Args:
        config: of a run.

    Returns:
        Configuration of each row, in their order.

    Raises:
        ValueError: naming the row that would not be a valid run, or if a bundle has the head of all rows.
    """
    if config.pretrain.bundle:
        raise ValueError(
            f"a row of heads: pretrain.start {config.pretrain.start} is a bundle, whose head takes the place of "
            "model.head; set pretrain.start to represent or scratch"
        )
    silent = {"caption_loss": False}
    generate = config.engine.generate.model_copy(update={"captions": 0})
    base: Changes = {
        "model": {"captions": False},
        "pretrain": silent,
        "retrain": silent,
        "finetune": silent,
        "engine": {"generate": generate, "rounds": 0},
    }
    config = vary(config, base, what="a row of heads")
    represent = config.represent
    has_feature = not represent.text_encoder and (not represent.is_trained or represent.trains_text)
    ranking = config.pretrain.tag_loss.model_copy(update={"kind": "ranking"})
    queries = config.model.ml_decoder.model_copy(update={"text_queries": True})
    changes: dict[str, Changes] = {
        OURS: {},
        "ml_decoder": {"model": {"head": "ml_decoder"}},
        "ml_decoder_texts": {"model": {"head": "ml_decoder", "ml_decoder": queries}},
        "mkt": {
            "model": {"head": "mkt"},
            "pretrain": {"tag_loss": ranking, "distill_loss": has_feature and config.model.image_proj is not None},
        },
        "mkt_own_loss": {"model": {"head": "mkt"}, "pretrain": {"distill_loss": False}},
    }
    return {name: vary(config, change, what=f"row {name!r}") for name, change in changes.items()}


def measure_heads(config: RunConfig, run_uri: str) -> dict[str, Figures]:
    """The rows for the configuration's seed; the benchmark of its models is written to the folder `heads`.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.

    Returns:
        Row -> figure -> number.
    """
    rows: dict[str, Figures] = {}
    systems = []
    for row in train_rows(head_variants(config), run_uri):
        rows[row.name] = {
            "labels": row.inputs.labels.labels,
            "weights": count_weights(f"{row.model.path}/model.safetensors", prefix="recognition."),
            "steps": row.model.steps,
            "mAP": row.score.mAP,
        }
        systems.append(OwnLabels(row.name, row.model.path))
        labels, held_out = row.inputs.labels, row.held_out
    folder, measuring = f"{run_uri}/heads", Measuring(min_positives=config.evaluate.min_positives)
    eval_set = make_set(held_out, LabelSystem.load(labels.uri), f"{folder}/sets/{SET_NAME}", config=config)
    run_tasks, measured, folders = on_cluster(config.execution.task_cpus), {}, {}
    for system in systems:
        folders[system.name] = f"{folder}/scores/{system.name}"
        score_set(
            system,
            eval_set,
            folders[system.name],
            batch_size=config.evaluate.batch_size,
            execution=config.execution,
        )
        measured[system.name] = measure_scores(folders[system.name], measuring, run_tasks=run_tasks)
    write_benchmark([SetResult(eval_set, measured, folders, {})], measuring, folder)
    return rows


def count_weights(file: str, *, prefix: str) -> int:
    """Count the values of tensors in a safetensors file; only its header is read.

    Args:
        file: path or URI.
        prefix: of the names that are counted.

    Returns:
        The number of values.
    """
    with fsspec.open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    total = 0
    for name, tensor in header.items():
        if name.startswith(prefix):
            start, end = tensor["data_offsets"]
            total += (end - start) // {"F32": 4, "F16": 2, "BF16": 2}[tensor["dtype"]]
    return total
