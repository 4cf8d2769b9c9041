"""Count scores and mentions together: SCORES rows to cells of (votes, tag, bin of the score).

An image gives a row for each tag that has a score, is mentioned by its captions, or is true. For each other tag the
image is a low score without a mention, which follows from the totals. So a block of images becomes at most a row for
each cell, Ray Data sums the blocks, and the driver holds at most tags x bins.

A mention counts unless cleaning removed the tag or a person excludes it. The human labels of an image that are tags
mention them as one caption more. A tag is a candidate on an image that neither has it nor lost it in cleaning, and from
which no person excludes it: it can be added.

Letters: V votes, T tags, B bins (`data_engine.calibrate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ram_ray.data.ground_truth import decided_against
from ram_ray.data_engine.calibrate import BINS, MentionCounts, bin_of
from ram_ray.data_engine.generate import Logits, tagger_logits_of, votes_of
from ram_ray.records import HUMAN, Row

CELL_COUNTS = ("images", "mentioned", "candidates", "labelled", "labelled_candidates", "true_candidates")
TAG_COUNTS = ("once", "twice", "often")  # of images with several captions: by how many of them mention the tag
TOTALS = ("num_images", "labelled_images", "true_tags", "true_tags_present", "multi_caption_images", "captions")
COUNTS = (*CELL_COUNTS, *TAG_COUNTS, *TOTALS)
CELLS = pa.schema([("cell", pa.int64()), *((name, pa.int64()) for name in COUNTS)])  # cell -1: totals of the block
MAX_VOTES = 3


@dataclass(frozen=True)
class Cells:
    """Counts over all images that were read, int64."""

    images: np.ndarray  # (V, T, B) images; the next five count some of these
    mentioned: np.ndarray  # captions mention the tag
    candidates: np.ndarray  # the tag can be added
    labelled: np.ndarray  # the truth is known: the image has human labels
    labelled_candidates: np.ndarray  # candidates, and the truth is known
    true_candidates: np.ndarray  # candidates, and the tag is true
    tags: dict[str, np.ndarray]  # TAG_COUNTS, (T,)
    totals: dict[str, int]  # TOTALS

    def mention_counts(self, rate_bounds: np.ndarray) -> MentionCounts:
        """The input of `calibrate`.

        Args:
            rate_bounds: (T,) float, lower bounds of the mention rates (`data_engine.mention_rate_bound`).

        Returns:
            The counts, with the mean number of captions of an image.
        """
        captions = self.totals["captions"] / max(1, self.totals["multi_caption_images"])
        once, twice, often = (self.tags[name] for name in TAG_COUNTS)
        return MentionCounts(
            self.images, self.mentioned, once, twice, often, captions=captions or 1.0, rate_bounds=rate_bounds
        )


def count_cells(
    block: pa.Table,
    *,
    num_tags: int,
    votes: int,
    selected: Callable[[str], bool] = lambda key: True,
    logits: Logits = tagger_logits_of,
) -> pa.Table:
    """Count the cells of a block.

    Args:
        block: SCORES rows.
        num_tags: T.
        votes: V - 1, the highest number of votes that is distinguished.
        selected: whether an image is counted, by its key.
        logits: scores of a row's tags: the tagger's, or combined with co-occurrence (`data_engine.combine_scores`).

    Returns:
        CELLS rows, one for each cell that is not empty, and one of totals.
    """
    counter = _Counter(num_tags, votes, logits)
    for row in block.to_pylist():
        if not row["reason"] and selected(row["key"]):
            counter.add(row)
    return counter.table()


def gather_cells(tables: Iterable[pa.Table], *, num_tags: int, votes: int) -> Cells:
    """Sum CELLS rows to arrays; images without a row of a tag go into the tag's lowest bin.

    Args:
        tables: CELLS rows; a cell is at most once in a table.
        num_tags: T.
        votes: V - 1, as of `count_cells`.

    Returns:
        The counts, with sums for each tag and over all.
    """
    shape = (votes + 1, num_tags, BINS)
    flat = {name: np.zeros(np.prod(shape), np.int64) for name in (*CELL_COUNTS, *TAG_COUNTS)}
    totals = dict.fromkeys(TOTALS, 0)
    for table in tables:
        cell = table["cell"].to_numpy()
        for name, counts in flat.items():
            counts[cell[cell >= 0]] += table[name].to_numpy()[cell >= 0]
        totals = {name: number + int(table[name].to_numpy()[cell < 0].sum()) for name, number in totals.items()}
    cells = {name: flat[name].reshape(shape) for name in CELL_COUNTS}
    rest = totals["num_images"] - cells["images"].sum((0, 2))  # (T,)
    without_row = totals["labelled_images"] - cells["labelled"].sum((0, 2))
    for name, missing in (
        ("images", rest),
        ("candidates", rest),
        ("labelled", without_row),
        ("labelled_candidates", without_row),
    ):
        cells[name][0, :, 0] += missing
    return Cells(**cells, tags={name: flat[name].reshape(shape).sum((0, 2)) for name in TAG_COUNTS}, totals=totals)


def mentions(row: Row) -> list[set[int]]:
    """The tags that each original caption of a row mentions, without those that cleaning removed or a person excludes.

    Args:
        row: of ANNOTATION or SCORES.

    Returns:
        For each original caption a set of tag ids, and one of the human labels if any are tags.
    """
    excluded = decided_against(row)
    originals = [caption for caption in row["captions"] or [] if caption["origin"] == "original"]
    human = {tag["id"] for tag in row["tags"] or [] if tag["origin"] == HUMAN}
    return [set(caption["tags"] or []) - excluded for caption in originals] + ([human] if human else [])


class _Counter:
    """Sums images to dense counts, and returns the cells that are not empty."""

    def __init__(self, num_tags: int, votes: int, logits: Logits) -> None:
        self.num_tags, self.votes, self.logits = num_tags, votes, logits
        self.counts: dict[str, list[np.ndarray]] = {name: [] for name in (*CELL_COUNTS, *TAG_COUNTS)}
        self.totals: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """Count an image, a SCORES row."""
        excluded = decided_against(row)
        tags = {tag["id"] for tag in row["tags"] or []}
        original = mentions(row)
        num_mentions = Counter(id for caption_tags in original for id in caption_tags)
        truth = None if row["truth"] is None else set(row["truth"])
        votes = votes_of(row)
        bins = dict(zip(row["tagger_ids"] or [], bin_of(self.logits(row)).tolist(), strict=True))
        ids = np.array(sorted({*bins, *num_mentions, *tags, *excluded, *votes, *(truth or ())}), np.int64)
        vote = np.array([min(votes.get(id, 0), self.votes) for id in ids.tolist()], np.int64)
        score_bin = np.array([bins.get(id, 0) for id in ids.tolist()], np.int64)
        cells = (vote * self.num_tags + ids) * BINS + score_bin
        is_candidate = ~np.isin(ids, list(tags | excluded))
        true = np.isin(ids, list(truth or ()))
        self._append("images", cells)
        self._append("mentioned", cells[np.isin(ids, list(num_mentions))])
        self._append("candidates", cells[is_candidate])
        if truth is not None:
            self._append("labelled", cells)
            self._append("labelled_candidates", cells[is_candidate])
            self._append("true_candidates", cells[is_candidate & true])
            self.totals.update(labelled_images=1, true_tags=len(truth), true_tags_present=len(truth & tags))
        if len(original) > 1:
            counts = np.minimum([num_mentions[id] for id in ids.tolist()], 3) if len(ids) else np.zeros(0)
            for number, name in enumerate(TAG_COUNTS, 1):
                self._append(name, ids[counts == number] * BINS)
            self.totals.update(multi_caption_images=1, captions=len(original))
        self.totals["num_images"] += 1

    def _append(self, name: str, cells: np.ndarray) -> None:
        self.counts[name].append(cells)

    def table(self) -> pa.Table:
        """The counts as CELLS rows."""
        size = (self.votes + 1) * self.num_tags * BINS
        empty = [np.zeros(0, np.int64)]
        dense = {
            name: np.bincount(np.concatenate(cells or empty), minlength=size) for name, cells in self.counts.items()
        }
        used = np.flatnonzero(np.any([counts > 0 for counts in dense.values()], axis=0))
        columns = {"cell": np.append(used, -1)}
        columns |= {name: np.append(counts[used], 0) for name, counts in dense.items()}
        columns |= {name: np.append(np.zeros(len(used), np.int64), self.totals[name]) for name in TOTALS}
        return pa.table(columns).cast(CELLS)
