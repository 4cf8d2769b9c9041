"""Thresholds of a bundle's labels, calibrated on labelled images: a precision or recall that is asked, or the best F1.

For each label the scores of all labelled images are sorted, and the threshold is put in the middle between two
neighbours: the lowest one with the precision, the highest one with the recall, or the one with the best F1. The lowest
of many thresholds with a precision on few images has it by luck. So the mean probability of the images above it must
have it too, by a curve of two parameters through all of the label's images (Platt 1999, "Probabilistic outputs for
support vector machines"). A label with few positives, or one that reaches the precision nowhere, keeps the threshold
that it has. As in the stage `evaluate`, a label that is not listed does not apply.

The figures before and after are of the images that the thresholds were chosen on, so the second are too good: score
the bundle on others.

Letters: N images, b labels of a block.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit

from ram_ray.config import RunConfig
from ram_ray.data.pixels import with_pixels
from ram_ray.evaluation.metrics import block_arrays, per_tag
from ram_ray.evaluation.scorer import Scorer
from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import read_config
from ram_ray.records import Json
from ram_ray.results import Counts
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.storage import local_copy

MIN_POSITIVES = 5  # of a label whose threshold is calibrated
RECORD = "calibration.json"  # in the bundle
_LABELLED = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("nbytes", pa.int64()),
        ("truth", pa.list_(pa.int32())),
        ("captions", pa.list_(pa.string())),  # not read where there is a truth
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_CHOSEN = pa.schema(
    [("tag", pa.int32()), ("images", pa.int64()), ("positives", pa.int64()), ("threshold", pa.float64())]
    + [(f"{when}_{name}", pa.int64()) for when in ("old", "new") for name in ("tp", "fp", "fn")]
)


@dataclass(frozen=True)
class Goal:
    """What is asked of a label's threshold."""

    name: Literal["precision", "recall", "f1"]
    value: float = 0.0  # of precision and recall

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read a goal.

        Args:
            text: "precision=0.9", "recall=0.8" or "f1".

        Returns:
            The goal.

        Raises:
            ValueError: if it is none of these.
        """
        name, _, value = text.partition("=")
        try:
            if name == "f1" and not value:
                return cls("f1")
            if name in ("precision", "recall") and 0 < float(value) <= 1:
                return cls(name, float(value))  # type: ignore[arg-type]
        except ValueError:
            pass
        raise ValueError(f"--calibrate {text}: use precision=0.9, recall=0.8 or f1")

    def __str__(self) -> str:
        return self.name if self.name == "f1" else f"{self.name}={self.value:g}"


def choose_threshold(scores: np.ndarray, targets: np.ndarray, goal: Goal) -> float | None:
    """Choose the threshold of one label.

    Args:
        scores: (N,) float32, probabilities.
        targets: (N,) bool.
        goal: what is asked.

    Returns:
        A probability; None if the label has too few positives, or no threshold has the precision.
    """
    num_positives = int(targets.sum())
    if num_positives < MIN_POSITIVES:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), targets[order].cumsum()
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # last rank of equal scores
    precision, recall = hits[ends] / (ends + 1), hits[ends] / num_positives
    if goal.name == "precision":
        expected = fit_probabilities(scores, targets)[order].cumsum()
        precision = np.minimum(precision, expected[ends] / (ends + 1))
    if goal.name == "f1":
        index = int(np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12)))
    else:
        reached = np.flatnonzero((precision if goal.name == "precision" else recall) >= goal.value)
        if not len(reached):
            return None
        index = int(reached[-1] if goal.name == "precision" else reached[0])
    lower = ranked[ends[index] + 1] if ends[index] + 1 < len(ranked) else 0.0
    return float(np.float32((ranked[ends[index]] + lower) / 2))


def fit_probabilities(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Fit the probability that an image has a label to its score: the sigmoid of a line in the score's logit.

    The targets are smoothed as Platt has it, so that a label that is separated well gets no step.

    Args:
        scores: (N,) float, probabilities.
        targets: (N,) bool, with both values.

    Returns:
        (N,) float64.
    """
    from scipy.optimize import minimize

    logits = logit(np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7))
    logits = (logits - logits.mean()) / max(float(logits.std()), 1e-9)
    num_positives, num_negatives = targets.sum(), (~targets).sum()
    smoothed = np.where(targets, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * logits + line[1]
        residual = expit(z) - smoothed
        return float((np.logaddexp(0, z) - smoothed * z).sum()), np.array([residual @ logits, residual.sum()])

    start = np.array([1.0, np.log((num_positives + 1) / (num_negatives + 1))])
    slope, offset = minimize(loss, start, jac=True, method="BFGS").x
    return expit(slope * logits + offset)


def calibrate(bundle: str, data: list[str], *, goal: Goal, config: RunConfig) -> Json:
    """Calibrate the thresholds of a bundle's labels, and write them into the bundle.

    Args:
        bundle: folder or URI; its `label_system.json` is replaced, and `calibration.json` is written.
        data: paths, URIs or globs of shards, or folders with captions.jsonl, with human labels.
        goal: what is asked of each label.
        config: of resources and data.

    Returns:
        The content of calibration.json: goal, data, numbers of images and labels, and figures before and after.

    Raises:
        ValueError: if the data has no labels of the bundle.
    """
    model = read_config(bundle)
    labels = LabelSystem.from_json((local_copy(bundle, files=("label_system.json",)) / "label_system.json").read_text())
    thresholds = labels.thresholds(model.threshold)
    rows = list(_choose_all(bundle, data, goal=goal, config=config, labels=labels, thresholds=thresholds))
    if not any(row["positives"] for row in rows):
        raise ValueError(
            f"{', '.join(data)}: no image has a label of the model; `labels` are names of its label system"
        )
    chosen = {row["tag"]: row["threshold"] for row in rows if row["threshold"] is not None}
    changed = [replace(label, threshold=chosen.get(label.id, label.threshold)) for label in labels.labels]
    record = {
        "goal": str(goal),
        "data": data,
        "images": rows[0]["images"],
        "labels": len(labels),
        "calibrated": len(chosen),
        "few_positives": sum(0 < row["positives"] < MIN_POSITIVES for row in rows),
        "no_positives": sum(row["positives"] == 0 for row in rows),
        "unreached": sorted(
            labels[row["tag"]].name for row in rows if row["threshold"] is None and row["positives"] >= MIN_POSITIVES
        ),
        "before": _figures(rows, "old"),
        "after": _figures(rows, "new"),
    }
    write_text(f"{bundle.rstrip('/')}/{RECORD}", json.dumps(record, indent=1, ensure_ascii=False))
    write_text(f"{bundle.rstrip('/')}/label_system.json", LabelSystem(changed, unique=labels.unique).to_json())
    return record


def _choose_all(
    bundle: str, data: list[str], *, goal: Goal, config: RunConfig, labels: LabelSystem, thresholds: np.ndarray
) -> Iterable[Json]:
    """Score the images and choose the threshold of each label; a small row a label."""
    import ray.data

    from ram_ray.data.shards import Shard, list_shards

    execution, model = config.execution, read_config(bundle)
    shards = list_shards(data, folders=config.data.shard_folders, images=config.data.images, layout=config.data.layout)
    items = ray.data.from_items(
        [
            {"shard": json.dumps([shard.name, shard.uri, shard.format, shard.size, shard.version, shard.images])}
            for shard in shards
        ],
        override_num_blocks=len(shards),
    )

    def read(batch: dict[str, Any]) -> Iterable[pa.Table]:
        for text in batch["shard"]:
            yield from _labelled_rows(Shard(*json.loads(text)), labels=labels, config=config)

    def choose(group: pa.Table) -> pa.Table:
        return choose_block(group, goal=goal, thresholds=thresholds)

    rows = items.map_batches(read, batch_size=1, num_cpus=execution.task_cpus)
    rows = rows.repartition(target_num_rows_per_block=execution.rows_per_block).materialize()
    if not rows.count():
        return ()
    batch_size = config.evaluate.batch_size
    blocks = with_pixels(rows, size=model.image_size, batch_size=batch_size, execution=execution).map_batches(
        Scorer,
        fn_constructor_args=(bundle,),
        fn_constructor_kwargs=predictor_options(execution),
        batch_format="numpy",
        batch_size=batch_size,
        **model_actors(execution.resources),
    )
    partitions = min(execution.resources.shuffle_partitions, -(-len(labels) // 64))
    groups = blocks.groupby("block", num_partitions=partitions)
    return groups.map_groups(choose, batch_format="pyarrow", num_cpus=execution.task_cpus).iter_rows()


def _labelled_rows(shard: Any, *, labels: LabelSystem, config: RunConfig) -> Iterable[pa.Table]:
    from ram_ray.data.ground_truth import resolve_labels
    from ram_ray.data.shards import scan_shard

    rows = []
    limits, layout = config.data.limits(min_side=1), config.data.layout
    for sample in scan_shard(shard, limits=limits, check="header", layout=layout):
        if sample["reason"] is None and sample["labels"] is not None:
            truth, _ = resolve_labels(sample["labels"], labels)
            rows.append({**{name: sample.get(name) for name in _LABELLED.names}, "truth": truth, "captions": []})
    yield pa.Table.from_pylist(rows, schema=_LABELLED)


def choose_block(group: pa.Table, *, goal: Goal, thresholds: np.ndarray) -> pa.Table:
    """Choose the thresholds of one block of labels.

    Args:
        group: TAG_BLOCK rows of one block.
        goal: what is asked.
        thresholds: (T,) float32, those that the labels have.

    Returns:
        A row for each label, with the threshold (null: it keeps its own) and the decisions before and after.
    """
    scores, targets, first = block_arrays(group, num_tags=len(thresholds))
    new = thresholds.copy()
    chosen = [choose_threshold(scores[:, column], targets[:, column], goal) for column in range(scores.shape[1])]
    for column, threshold in enumerate(chosen):
        if threshold is not None:
            new[first + column] = threshold
    old_rows, new_rows = (per_tag(scores, targets, thresholds=values, first=first) for values in (thresholds, new))
    rows = []
    for old_row, new_row, threshold in zip(old_rows, new_rows, chosen, strict=True):
        counts = {f"old_{name}": old_row[name] for name in ("tp", "fp", "fn")}
        counts |= {f"new_{name}": new_row[name] for name in ("tp", "fp", "fn")}
        shape = {"images": old_row["num_images"], "positives": old_row["num_positives"]}
        rows.append({"tag": old_row["tag"], "threshold": threshold, **shape, **counts})
    return pa.Table.from_pylist(rows, schema=_CHOSEN)


def _figures(rows: Iterable[Json], when: str) -> Json:
    """Precision and recall over all decisions of the labels that were calibrated."""
    total = Counts()
    for row in rows:
        if row["threshold"] is not None:
            total += Counts(*(row[f"{when}_{name}"] for name in ("tp", "fp", "fn")))
    return {"precision": total.precision, "recall": total.recall}
