"""Combine the tagger's score and a tag's co-occurrence into the logit that captions mention the tag.

Logistic regression over (image, tag) of images that the model did not learn from, with the captions as targets:

    logit = a + b score + c co-occurrence

Only three weights are fitted, on counts in cells of (score, co-occurrence) with `BINS` bins each, so a pass over the
images is enough and the driver holds BINS x BINS numbers. Calibration, thresholds and merging use this logit in place
of the score. Where tags do not occur together, c is noise around 0: unless c is MIN_Z standard errors above 0, the
logit stays the score.

c measures evidence of a *mention*, which is more than evidence of the *truth*, since words are also mentioned together
in phrases. The mention rates (`calibrate`) correct the estimated precision for it.

Letters: K tags of a row that have scores.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import fsspec
import numpy as np
import pyarrow as pa
from scipy.special import expit

from ram_ray.data.folds import fold_index
from ram_ray.data_engine.calibrate import BINS, LOGITS, bin_of, edge_of
from ram_ray.data_engine.generate import tagger_logits_of
from ram_ray.data_engine.tag_pairs import FOLDS, LIMIT, CoOccurrence, Pairs, mentioned_ids
from ram_ray.records import Row
from ram_ray.runtime.artifacts import write_bytes

# `cell` is bin of score x BINS + bin of co-occurrence; `mentioned` counts mentioned tags.
SCORE_CELLS = pa.schema([("cell", pa.int64()), ("images", pa.int64()), ("mentioned", pa.int64())])
MIN_Z = 2.0  # of c, in standard errors
NEWTON_STEPS = 50
assert LOGITS == (-LIMIT, LIMIT)  # the same bins for both


@dataclass(frozen=True)
class Weights:
    """The weights a, b and c; the defaults keep the score as it is."""

    constant: float = 0.0
    score: float = 1.0
    co_occurrence: float = 0.0


class ScoreCombiner:
    """Combined logits of a SCORES row.

    Args:
        co_occurrence: scores the co-occurrence of tags.
        weights: of score and co-occurrence; if that of co-occurrence is 0, the logits stay as they are.
    """

    def __init__(self, co_occurrence: CoOccurrence, weights: Weights) -> None:
        self.co_occurrence, self.weights = co_occurrence, weights

    def measure(self, row: Row) -> np.ndarray:
        """Co-occurrence of the tags of a row that have scores.

        Args:
            row: of SCORES.

        Returns:
            (K,) float64, in the order of the row's `tagger_ids`.
        """
        ids = np.array(row["tagger_ids"] or [], np.int64)
        return self.co_occurrence(mentioned_ids(row), tags=ids, fold=fold_index(row["key"], FOLDS))

    def __call__(self, row: Row) -> np.ndarray:
        """The combined logits of a row.

        Args:
            row: of SCORES.

        Returns:
            (K,) float32, in the order of the row's `tagger_ids`.
        """
        weights, logits = self.weights, tagger_logits_of(row)
        if not weights.co_occurrence:
            return logits
        combined = weights.constant + weights.score * logits + weights.co_occurrence * self.measure(row)
        return combined.astype(np.float32)


def count_score_cells(
    block: pa.Table, *, co_occurrence: CoOccurrence, selected: Callable[[str], bool] = lambda key: True
) -> pa.Table:
    """Count (image, tag) pairs, and those that are mentioned, in cells of score and co-occurrence.

    Args:
        block: SCORES rows.
        co_occurrence: scores the co-occurrence of tags.
        selected: whether an image is counted, by its key.

    Returns:
        SCORE_CELLS rows, a cell once.
    """
    measure = ScoreCombiner(co_occurrence, Weights()).measure
    cells, mentioned = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for row in block.to_pylist():
        if not row["reason"] and selected(row["key"]):
            cells.append(bin_of(tagger_logits_of(row)) * BINS + bin_of(measure(row)))
            mentioned.append(np.isin(np.array(row["tagger_ids"] or [], np.int64), mentioned_ids(row)))
    cell, index = np.unique(np.concatenate(cells), return_inverse=True)
    images = np.bincount(index, minlength=len(cell))
    counts = np.bincount(index[np.concatenate(mentioned)], minlength=len(cell))
    return pa.table({"cell": cell, "images": images, "mentioned": counts}).cast(SCORE_CELLS)


def fit_weights(tables: Iterable[pa.Table]) -> Weights:
    """Fit the weights by Newton's method, with the priors b ~ N(0, 1) and c ~ N(0, 1).

    Args:
        tables: SCORE_CELLS rows; a cell may be in several.

    Returns:
        The most likely weights; the defaults where c is not clearly over 0 or nothing can be fitted.
    """
    images, mentioned = np.zeros(BINS * BINS), np.zeros(BINS * BINS)
    for table in tables:
        cell = table["cell"].to_numpy()
        np.add.at(images, cell, table["images"].to_numpy())
        np.add.at(mentioned, cell, table["mentioned"].to_numpy())
    cell = np.flatnonzero(images)
    if not mentioned.any() or not (mentioned < images).any():
        return Weights()
    half_bin = (LOGITS[1] - LOGITS[0]) / BINS / 2
    features = np.stack([np.ones(len(cell)), edge_of(cell // BINS) + half_bin, edge_of(cell % BINS) + half_bin], axis=1)
    images, mentioned, prior = images[cell], mentioned[cell], np.diag([0.0, 1.0, 1.0])
    share = mentioned.sum() / images.sum()
    weights = np.array([np.log(share / (1 - share)), 0.0, 0.0])
    for _ in range(NEWTON_STEPS):
        probability = expit(features @ weights)
        hessian = (features * (images * probability * (1 - probability))[:, None]).T @ features + prior
        step = np.linalg.solve(hessian, features.T @ (mentioned - images * probability) - prior @ weights)
        weights = weights + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-6:
            break
    error = float(np.sqrt(np.linalg.inv(hessian)[2, 2]))
    return Weights(*weights.tolist()) if weights[2] > MIN_Z * error and weights[1] > 0 else Weights()


def write_pairs(uri: str, pairs: Pairs) -> None:
    """Write the counts of a `ScoreCombiner`.

    Args:
        uri: of the .npz file.
        pairs: counts of tags that captions mention together.
    """
    data = io.BytesIO()
    np.savez_compressed(data, **vars(pairs))
    write_bytes(uri, data.getvalue())


def read_pairs(uri: str) -> Pairs:
    """Read the counts that `write_pairs` wrote.

    Args:
        uri: of the .npz file.

    Returns:
        Counts of tags that captions mention together.
    """
    with fsspec.open(uri, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        return Pairs(**{field.name: arrays[field.name] for field in fields(Pairs)})
