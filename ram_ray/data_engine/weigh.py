"""The tagger's score and the company that a tag keeps, weighed into one: the logit that captions say the tag.

The picture says how likely a tag is, and so do the other tags that its captions say: where one says "surfboard" there
is a wave. A weak tagger is the worse witness of the two. Both are heard as in a logistic regression,

    logit = a + b score + c company

over (picture, tag) of pictures that their model did not see, from what captions say of them: three numbers for the
whole system, and nothing that is tuned. They come from counts in cells of (score, company), each in `BINS` bins, so one
pass over the pictures is enough and the driver holds BINS x BINS numbers. What follows, calibration and its curve for
each tag, thresholds, merging, takes this logit where it took the score. Company is measured for a said tag as if it
were not said (`data_engine.pairs`), so where tags keep no company c is noise around 0; unless it is SURE standard
errors above, all stays with the score as it was.

c is what company tells of being *said*, and that is more than it tells of being *true*: words are also said together,
in phrases, and of two words for one thing a caption says one. On photos with one caption each, company among the unsaid
tags told 0.7 times as much of the truth, the tags of all five captions. The order of what is added hardly suffers. That
the estimated precision is not too high is left to the say rates, which rise with the surest pictures (`calibrate`).

Measured there (5,400 photos, 250 tags, 10% false ones planted, three small Swins of three epochs that learnt without
those, mAP 0.12, each asked about the photos that it did not see, 10,000 additions): 0.21 of them right by the score
alone, 0.25 by company and how often a tag is said, 0.27 by both; the most frequent tags 0.10. Only company that speaks
for a tag: 0.25. Weights of their own for what speaks for and against come out equal. With A of 2 or 10, or 2 or 10
parts: 0.27 to 0.28. The estimate at this number: 0.22, and 0.17 where nothing is planted and 0.28 are right.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from ram_ray.data.parts import part_of
from ram_ray.data_engine.calibrate import BINS, LOGITS, bin_of, edge_of
from ram_ray.data_engine.generate import own_logits
from ram_ray.data_engine.pairs import LIMIT, PARTS, Company, Pairs, said_ids
from ram_ray.runtime.artifacts import write_bytes

WEIGHED = pa.schema([("cell", pa.int64()), ("images", pa.int64()), ("said", pa.int64())])  # bin of score, of company
SURE = 2.0
NEWTON = 50
assert LOGITS == (-LIMIT, LIMIT)  # one rule of bins for both


@dataclass(frozen=True)
class Weights:
    """a, b and c; as they stand here, the score alone."""

    constant: float = 0.0
    score: float = 1.0
    company: float = 0.0


class Weigher:
    """The logits of a SCORES row, weighed.

    Args:
        company: the measure of a tag's company.
        weights: of score and company; without a weight of company the logits stay as they are.
    """

    def __init__(self, company: Company, weights: Weights) -> None:
        self.company, self.weights = company, weights

    def measure(self, row: Mapping[str, Any]) -> np.ndarray:
        """Company of the tags that the row has scores for.

        Args:
            row: of SCORES.

        Returns:
            (K,) float64, in the order of the row's `tagger_ids`.
        """
        ids = np.array(row["tagger_ids"] or [], np.int64)
        return self.company(said_ids(row), of=ids, part=part_of(row["key"], PARTS))

    def __call__(self, row: Mapping[str, Any]) -> np.ndarray:
        """The combined logits of a row.

        Args:
            row: of SCORES.

        Returns:
            (K,) float32, in the order of the row's `tagger_ids`.
        """
        weights, logits = self.weights, own_logits(row)
        if not weights.company:
            return logits
        combined = weights.constant + weights.score * logits + weights.company * self.measure(row)
        return combined.astype(np.float32)


def count_weighed(block: pa.Table, *, company: Company, chosen: Callable[[str], bool] = lambda key: True) -> pa.Table:
    """WEIGHED rows of a block of SCORES rows: how many tags have a score and company, and how many of them are said.

    Args:
        block: SCORES rows.
        company: the measure of a tag's company.
        chosen: keys of the pictures to count.
    """
    measure = Weigher(company, Weights()).measure
    cells, said = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for row in block.to_pylist():
        if not row["reason"] and chosen(row["key"]):
            cells.append(bin_of(own_logits(row)) * BINS + bin_of(measure(row)))
            said.append(np.isin(np.array(row["tagger_ids"] or [], np.int64), said_ids(row)))
    cell, place = np.unique(np.concatenate(cells), return_inverse=True)
    images = np.bincount(place, minlength=len(cell))
    counts = np.bincount(place[np.concatenate(said)], minlength=len(cell))
    return pa.table({"cell": cell, "images": images, "said": counts}).cast(WEIGHED)


def fit_weights(tables: Iterable[pa.Table]) -> Weights:
    """The most likely weights, by Newton's method, with b and c ~ N(0, 1) to hold them where hardly anything is said.

    Args:
        tables: WEIGHED rows; a cell may stand in several.
    """
    images, said = np.zeros(BINS * BINS), np.zeros(BINS * BINS)
    for table in tables:
        cell = table["cell"].to_numpy()
        np.add.at(images, cell, table["images"].to_numpy())
        np.add.at(said, cell, table["said"].to_numpy())
    cell = np.flatnonzero(images)
    if not said.any() or not (said < images).any():
        return Weights()
    middle = (LOGITS[1] - LOGITS[0]) / BINS / 2
    x = np.stack([np.ones(len(cell)), edge_of(cell // BINS) + middle, edge_of(cell % BINS) + middle], axis=1)
    images, said, prior = images[cell], said[cell], np.diag([0.0, 1.0, 1.0])
    share = said.sum() / images.sum()
    at = np.array([np.log(share / (1 - share)), 0.0, 0.0])
    for _ in range(NEWTON):
        chance = 1 / (1 + np.exp(-np.clip(x @ at, -40, 40)))
        bend = (x * (images * chance * (1 - chance))[:, None]).T @ x + prior
        step = np.linalg.solve(bend, x.T @ (said - images * chance) - prior @ at)
        at = at + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-6:
            break
    error = float(np.sqrt(np.linalg.inv(bend)[2, 2]))
    return Weights(*at.tolist()) if at[2] > SURE * error and at[1] > 0 else Weights()


def write_weigher(uri: str, pairs: Pairs, weights: Weights) -> None:
    """Keep what a `Weigher` is made of."""
    data = io.BytesIO()
    np.savez_compressed(data, weights=np.array(list(asdict(weights).values())), **vars(pairs))
    write_bytes(uri, data.getvalue())


def read_weigher(uri: str) -> tuple[Pairs, Weights]:
    """What `write_weigher` kept."""
    with fsspec.open(uri, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        pairs = Pairs(**{one.name: arrays[one.name] for one in fields(Pairs)})
        return pairs, Weights(*arrays["weights"].tolist())
