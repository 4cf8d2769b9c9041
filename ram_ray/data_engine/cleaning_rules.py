"""The rules that say which tags of a label are removed; `engine.clean.rule` selects one.

    probability  The two tests of the paper are signals of a single decision (`data_engine.wrong_tags`). Removed are
                 tags that are wrong with a probability of at least `min_wrong_probability`, the most probable first,
                 and of each label at most the share `max_removed_share`. The reason is "outlier" if the evidence
                 against the tag is mostly that it is unlike its label, by embedding or by co-occurrence, else
                 "disagreement". The score is the probability.
    paper        The tests in turn (arXiv 2306.03514, section 3.3). The share `outlier_share` of the label's crops, the
                 farthest from the centre of their cluster, is removed as "outlier"; the score is the distance, 0 to 2.
                 Of the others, a tag that the model does not predict on its region, at the label's threshold, is
                 removed as "disagreement"; the score is 1 - the probability on the region. A tag without a region is
                 measured on the whole image, where the paper, which names only categories with regions, is silent.

Letters: N positive rows of a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from ram_ray.data_engine.co_occurrence import TagCounts
from ram_ray.data_engine.measured_crops import fit_all, fit_halves, measure_crops, signals_of
from ram_ray.data_engine.regions_by_label import Chunks
from ram_ray.data_engine.wrong_tags import SIGNALS, Evidence, estimate_wrong
from ram_ray.settings.data_engine import CleanConfig

_OUTLIER_SIGNALS = [SIGNALS.index(name) for name in ("prototype_similarity", "co_occurrence")]


@dataclass(frozen=True)
class Ruling:
    """What a rule says about a label."""

    positives: pa.Table  # N measured rows, in the order of keys
    removable: np.ndarray  # (N,) bool
    reasons: np.ndarray  # (N,) str, "outlier" or "disagreement", if the row is removable
    scores: np.ndarray  # (N,) float: a higher score is more evidence that the tag is wrong
    clusters: int
    figures: Mapping[str, float] = field(default_factory=dict)  # columns of CLEANED_LABELS


class Rule(Protocol):
    """Says which tags of a label are removed."""

    def __call__(self, chunks: Chunks, *, crops: int, config: CleanConfig, counts: TagCounts, seed: int) -> Ruling:
        """Apply the rule to a label.

        Args:
            chunks: reads the REGIONS rows of the label.
            crops: N.
            config: section `engine.clean`.
            counts: number of images that mention each tag.
            seed: of clustering.

        Returns:
            The ruling.
        """
        ...


def probability_rule(chunks: Chunks, *, crops: int, config: CleanConfig, counts: TagCounts, seed: int) -> Ruling:
    """Apply the rule `probability`; see `Rule`."""
    halves = fit_halves(chunks, crops=crops, config=config, seed=seed)
    measured = measure_crops(chunks, halves, counts=counts, seed=seed)
    signals, positive = signals_of(measured), measured["positive"].to_numpy()
    detected = measured["detected"].to_numpy()
    positives = measured.filter(pa.array(positive))
    evidence = estimate_wrong(
        signals[positive],
        signals[~positive],
        mentioned=positives["mentioned"].to_numpy(),
        detected=np.concatenate([detected[positive], detected[~positive]]),
        expected=config.expected_wrong_share,
    )
    outlier = evidence.contributions[:, _OUTLIER_SIGNALS].sum(axis=1)
    weights = {f"weight_{name}": float(weight) for name, weight in zip(SIGNALS, evidence.weights, strict=True)}
    return Ruling(
        positives,
        removable=_most_probable(evidence, config=config),
        reasons=np.where(2 * outlier < evidence.contributions.sum(axis=1), "outlier", "disagreement"),
        scores=evidence.wrong,
        clusters=sum(int(prototypes.valid.sum()) for prototypes in halves),
        figures={"wrong_share": evidence.share, **weights},
    )


def paper_rule(chunks: Chunks, *, crops: int, config: CleanConfig, counts: TagCounts, seed: int) -> Ruling:
    """Apply the rule `paper`; see `Rule`."""
    prototypes = fit_all(chunks, crops=crops, config=config, seed=seed)
    measured = measure_crops(chunks, (prototypes,), counts=counts, seed=seed)
    positives = measured.filter(measured["positive"])
    distance = positives["distance"].to_numpy()
    outlier = np.zeros(len(distance), bool)
    # Rounded, so that an order of sums does not decide between equal distances; of equal ones the lower keys go.
    farthest = np.argsort(-np.round(distance, 6), kind="stable")
    outlier[farthest[: int(config.outlier_share * len(distance) + 1e-9)]] = True
    unseen = ~positives["predicted"].to_numpy()
    return Ruling(
        positives,
        removable=outlier | unseen,
        reasons=np.where(outlier, "outlier", "disagreement"),
        scores=np.where(outlier, distance, 1 - positives["region_score"].to_numpy()),
        clusters=len(prototypes.sizes),
    )


RULES: dict[str, Rule] = {"probability": probability_rule, "paper": paper_rule}


def _most_probable(evidence: Evidence, *, config: CleanConfig) -> np.ndarray:
    """Which of a label's rows to remove, (N,) bool: at most `max_removed_share`; of equal ones the lower keys."""
    num_rows = len(evidence.wrong)
    worst = np.argsort(-np.round(evidence.wrong, 6), kind="stable")[: int(config.max_removed_share * num_rows + 1e-9)]
    removed = np.zeros(num_rows, bool)
    removed[worst] = True
    return removed & (evidence.wrong >= config.min_wrong_probability)
