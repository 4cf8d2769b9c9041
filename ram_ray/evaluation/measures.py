"""The figures of one system on one evaluation set, each with its interval.

AP needs no threshold. Precision, recall and F1 do, and systems have scores of different meaning: a probability, a
cosine, a box's confidence. As in the paper (arXiv 2306.03514), each system gets one threshold of its own, for all
classes, so that figures can be compared. The paper does not say by which rule; here it is by default the threshold with
the best macro F1 on this set, which is the system's best case. A system that has thresholds of its own, such as a
bundle, is also measured at those.

"Macro" is the mean over classes, "micro" counts all decisions together. A class that is never predicted has precision
and F1 0, as in the released evaluation and in scikit-learn. Classes with fewer positives than asked (at least 1) have a
line but are in no mean.

Letters: N images, C classes, b classes of a block, R replicates, G candidates of a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ram_ray.evaluation.bootstrap import (
    Resampling,
    ap_replicates,
    image_ids,
    interval,
    mean_over_classes,
    weight_chunks,
)
from ram_ray.evaluation.metrics import average_precision
from ram_ray.evaluation.score_files import ClassBlock
from ram_ray.label_system import is_present
from ram_ray.records import Json

FIGURES = ("mAP", *(f"{kind}_{name}" for kind in ("macro", "micro") for name in ("precision", "recall", "f1")))
NUM_CANDIDATES = 512  # of the threshold of a system


@dataclass(frozen=True)
class Tuning:
    """The rule of a system's one threshold: the best macro F1, equal macro precision and recall, or a precision."""

    rule: Literal["f1", "balanced", "precision"] = "f1"
    value: float = 0.0  # of the precision

    @classmethod
    def parse(cls, text: str) -> Tuning:
        """Read a rule.

        Args:
            text: "f1", "balanced" or "precision=0.8".

        Returns:
            The rule.

        Raises:
            ValueError: if it is none of these.
        """
        name, equals, value = text.partition("=")
        if name in ("f1", "balanced") and not equals:
            return cls(name)  # type: ignore[arg-type]
        try:
            if name == "precision" and 0 < float(value) <= 1:
                return cls("precision", float(value))
        except ValueError:
            pass
        raise ValueError(f"--tune {text}: use f1, balanced or precision=0.8")

    def __str__(self) -> str:
        return f"precision={self.value:g}" if self.rule == "precision" else self.rule


@dataclass
class ClassFigures:
    """Counts and AP of one class, on the images themselves and in each replicate."""

    index: int
    num_images: int
    num_positives: int
    ap: float  # NaN without positives
    counts: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))  # tp, fp, fn at the threshold
    ap_replicates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (R,)
    count_replicates: np.ndarray = field(default_factory=lambda: np.zeros((3, 0), np.int32))  # (3, R)


def measure_block(
    block: ClassBlock, *, thresholds: np.ndarray, resampling: Resampling, with_ap: bool = True
) -> list[ClassFigures]:
    """Measure each class of a block.

    Args:
        block: scores and targets of all images.
        thresholds: (C,) float32, of all classes of the system.
        resampling: replicates of the intervals.
        with_ap: False: only the counts are measured.

    Returns:
        The figures of each class.
    """
    figures, known = [], []
    for column in range(block.scores.shape[1]):
        scores, targets = block.scores[:, column], block.targets[:, column]
        rows = np.flatnonzero(targets >= 0)
        truth = targets[rows] == 1
        predicted = is_present(scores[rows], thresholds[block.first + column])
        groups = [np.flatnonzero(mask) for mask in (predicted & truth, predicted & ~truth, ~predicted & truth)]
        known.append((rows, truth, groups))
        figures.append(
            ClassFigures(
                block.first + column,
                len(rows),
                int(truth.sum()),
                average_precision(scores[rows], truth) if with_ap else float("nan"),
                np.array([len(group) for group in groups]),
                np.zeros(resampling.replicates if with_ap else 0, np.float32),
                np.zeros((3, resampling.replicates), np.int32),
            )
        )
    if not resampling.replicates:
        return figures
    for columns, weights in weight_chunks(image_ids(block.keys), resampling):
        for figure, (rows, truth, groups) in zip(figures, known, strict=True):
            of_rows = weights if len(rows) == len(weights) else weights[rows]
            for row, group in enumerate(groups):
                figure.count_replicates[row, columns] = of_rows[group].sum(axis=0, dtype=np.int32)
            if with_ap:
                scores = block.scores[rows, figure.index - block.first]
                figure.ap_replicates[columns] = ap_replicates(scores, truth, of_rows)
    return figures


def candidate_thresholds(blocks: Sequence[ClassBlock]) -> np.ndarray:
    """Choose candidates of a system's threshold: quantiles of the scores that true classes have.

    Args:
        blocks: some or all of the scores.

    Returns:
        (G,) float32, ascending; one candidate if no class is true.
    """
    scores = np.concatenate([np.zeros(0, np.float32), *(block.scores[block.targets == 1] for block in blocks)])
    if not len(scores):
        return np.array([0.5], np.float32)
    return np.unique(np.quantile(scores, np.linspace(0, 1, NUM_CANDIDATES), method="lower").astype(np.float32))


def count_at(block: ClassBlock, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the decisions of each class of a block at each candidate.

    Args:
        block: scores and targets of all images.
        candidates: (G,) float32, ascending.

    Returns:
        tp (b, G), fp (b, G) and positives (b,), int64.
    """
    tp, fp = (np.zeros((block.scores.shape[1], len(candidates)), np.int64) for _ in range(2))
    for column in range(block.scores.shape[1]):
        for counts, target in ((tp, 1), (fp, 0)):
            scores = np.sort(block.scores[block.targets[:, column] == target, column])
            counts[column] = len(scores) - np.searchsorted(scores, candidates, side="left")
    return tp, fp, (block.targets == 1).sum(axis=0)


def choose_common_threshold(
    candidates: np.ndarray, tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, tuning: Tuning, *, min_positives: int
) -> float:
    """Choose the one threshold of a system.

    Args:
        candidates: (G,) float32, ascending.
        tp: (C, G) int64.
        fp: (C, G) int64.
        positives: (C,) int64.
        tuning: the rule.
        min_positives: fewest positives of a class that is averaged.

    Returns:
        One of the candidates: the highest precision, where none has the precision that is asked.
    """
    counted = positives >= max(1, min_positives)
    if not counted.any():
        return float(candidates[-1])
    precision = (tp[counted] / np.maximum(tp[counted] + fp[counted], 1)).mean(axis=0)
    recall = (tp[counted] / positives[counted, None]).mean(axis=0)
    f1 = (2 * tp[counted] / (tp[counted] + fp[counted] + positives[counted, None])).mean(axis=0)
    if tuning.rule == "f1":
        return float(candidates[int(np.argmax(f1))])
    if tuning.rule == "balanced":
        return float(candidates[int(np.argmin(np.abs(precision - recall)))])
    reached = np.flatnonzero(precision >= tuning.value)
    return float(candidates[int(reached[0] if len(reached) else np.argmax(precision))])


def summarise_figures(figures: Sequence[ClassFigures], *, names: Sequence[str], min_positives: int = 1) -> Json:
    """Average the figures of classes.

    Args:
        figures: of each class.
        names: of all classes, by index.
        min_positives: fewest positives of a class that is averaged.

    Returns:
        num_classes, num_images, mean_prevalence (the mAP of random scores), and mAP, macro_ and micro_ precision,
        recall and f1, each `{"value", "interval"}` (0 to 1; None where it does not exist); `per_class`, a line each.
    """
    counted = [figure for figure in figures if figure.num_positives >= max(1, min_positives)]
    values: dict[str, float] = {}
    replicates: dict[str, np.ndarray] = {}
    if counted:
        counts = np.stack([figure.counts for figure in counted], axis=1)  # (3, C)
        drawn = np.stack([figure.count_replicates for figure in counted], axis=1)  # (3, C, R)
        values["mAP"] = float(np.mean([figure.ap for figure in counted]))
        replicates["mAP"] = mean_over_classes(np.stack([figure.ap_replicates for figure in counted]))
        for kind, sums in (("macro", lambda array: array), ("micro", lambda array: array.sum(axis=1, keepdims=True))):
            for name, value in rates(sums(counts)).items():
                values[f"{kind}_{name}"] = float(value.mean(axis=0))
            for name, value in rates(sums(drawn)).items():
                replicates[f"{kind}_{name}"] = value.mean(axis=0)
    return {
        "num_classes": len(counted),
        "num_images": max((figure.num_images for figure in figures), default=0),
        "mean_prevalence": float(np.mean([figure.num_positives / figure.num_images for figure in counted]))
        if counted
        else None,
        **{name: _with_interval(values.get(name), replicates.get(name)) for name in FIGURES},
        "per_class": [_line(figure, names[figure.index], min_positives) for figure in figures],
    }


def rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of counts; 0 where nothing is predicted, or nothing is true.

    Args:
        counts: (3, ...) int: tp, fp, fn.

    Returns:
        Name -> (...) float64.
    """
    tp, fp, fn = (part.astype(np.float64) for part in counts)
    return {
        "precision": tp / np.maximum(tp + fp, 1),
        "recall": tp / np.maximum(tp + fn, 1),
        "f1": 2 * tp / np.maximum(2 * tp + fp + fn, 1),
    }


def _line(figure: ClassFigures, name: str, min_positives: int) -> Json:
    return {
        "class": name,
        "num_positives": figure.num_positives,
        "num_images": figure.num_images,
        "ap": _with_interval(figure.ap if figure.num_positives else None, figure.ap_replicates),
        **{name: float(value) for name, value in rates(figure.counts).items()},
        "predicted": int(figure.counts[0] + figure.counts[1]),
        "counted": figure.num_positives >= max(1, min_positives),
    }


def _with_interval(value: float | None, replicates: np.ndarray | None) -> Json:
    if value is None or not np.isfinite(value):
        return {"value": None, "interval": None}
    drawn = None if replicates is None or not len(replicates) else interval(value, replicates)
    return {"value": value, "interval": None if drawn is None else [max(0.0, drawn[0]), min(1.0, drawn[1])]}
