"""A model's scores on labelled images together with the truth, as functions of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ram_ray.data.ground_truth import true_tags
from ram_ray.evaluation.metrics import to_tag_blocks
from ram_ray.evaluation.score_files import to_score_blocks

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor


def targets_matrix(truths: Sequence[set[int]], num_tags: int) -> np.ndarray:
    """The truth as an array.

    Args:
        truths: ids of the true tags of each of N images.
        num_tags: T, the size of the label system.

    Returns:
        (N, T) bool.
    """
    targets = np.zeros((len(truths), num_tags), bool)
    for row, ids in enumerate(truths):
        targets[row, list(ids)] = True
    return targets


class Scorer:
    """Actor: images and their truth -> TAG_BLOCK rows, the input of `metrics.block_arrays`.

    Rejected rows and rows without truth are left out; `rows` is the number of scored images.

    Args:
        bundle_uri: path, URI or id of the model.
        device: as in `Predictor.from_pretrained`, as are precision and threads.
        precision: "fp32", "bf16" or "auto".
        threads: number of torch's threads.
        tags_per_block: as passed to `metrics.to_tag_blocks`.
        predictor: a loaded model, used in place of `bundle_uri`.
    """

    def __init__(
        self,
        bundle_uri: str,
        *,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        tags_per_block: int = 64,
        predictor: Predictor | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference.predictor import Predictor as Loader

            predictor = Loader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        self.predictor = predictor
        self.tags_per_block = tags_per_block

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Score a batch.

        Args:
            batch: ANNOTATION rows as numpy columns, with `pixels` (B, S, S, 3) uint8.

        Returns:
            TAG_BLOCK rows of the images that are not rejected and have a truth.
        """
        _, scores, targets = self.score(batch)
        return to_tag_blocks(scores, targets, tags_per_block=self.tags_per_block)

    def score(self, batch: Mapping[str, np.ndarray]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Score the images of a batch that are not rejected and have a truth.

        Args:
            batch: as of a call.

        Returns:
            Their n indices, scores (n, T) float32 and targets (n, T) bool.
        """
        num_tags = len(self.predictor.labels)
        truths: list[set[int] | None] = []
        for reason, truth, captions in zip(batch["reason"], batch["truth"], batch["captions"], strict=True):
            rejected = isinstance(reason, str)
            truths.append(None if rejected else true_tags(_to_list(truth), captions))
        rows = [row for row, truth in enumerate(truths) if truth is not None]
        known = [truth for truth in truths if truth is not None]
        if not rows:
            return [], np.zeros((0, num_tags), np.float32), np.zeros((0, num_tags), bool)
        scores = self.predictor.probabilities(np.stack([batch["pixels"][row] for row in rows]))
        return rows, scores, targets_matrix(known, num_tags)


class KeyedScorer(Scorer):
    """The same with the keys of the images: SCORE_BLOCK rows, which `score_files` writes."""

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Score a batch.

        Args:
            batch: as of `Scorer`, with `key`.

        Returns:
            SCORE_BLOCK rows of the images that are not rejected and have a truth.
        """
        rows, scores, targets = self.score(batch)
        return to_score_blocks([str(batch["key"][row]) for row in rows], scores, targets)


def _to_list(ids: Sequence[int] | float | None) -> list[int] | None:
    """A value of a list column as Ray passes it in a numpy batch: an array, None, or NaN for a null."""
    return None if ids is None or isinstance(ids, float) else [int(id) for id in ids]
