"""What scores and captions say together, counted: SCORES rows to cells of (votes, tag, bin of the score).

A picture gives a row for each tag that it has a score for, that its captions say, or that is true of it; for all other
tags it is one of many pictures with a low score and nothing said, which the totals tell. So a block of pictures
becomes at most a row a cell, Ray Data adds the blocks up, and what the driver holds is bounded by tags x bins.

What a caption says counts as said unless cleaning took it out. A tag is open in a picture that does not carry it and
from which none was removed: what could be added.

Letters: V votes, T tags, B bins (`data_engine.calibrate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ram_ray.data.ground_truth import truth_ids
from ram_ray.data_engine.calibrate import BINS, Evidence, bin_of
from ram_ray.data_engine.generate import Logits, own_logits, votes_of
from ram_ray.label_system import LabelSystem

OF_CELL = ("images", "said", "open", "judged", "known", "right")
OF_TAG = ("once", "twice", "often")  # of pictures with several captions: how many of them say the tag
OF_ALL = ("pictures", "labelled", "truths", "had", "several", "captions")
COUNTS = (*OF_CELL, *OF_TAG, *OF_ALL)
CELLS = pa.schema([("cell", pa.int64()), *((name, pa.int64()) for name in COUNTS)])  # cell -1: the whole block
MAX_VOTES = 3


@dataclass(frozen=True)
class Cells:
    """Counts over all pictures that were looked at."""

    images: np.ndarray  # (V, T, B) pictures; the next five are of these
    said: np.ndarray  # captions say the tag
    open: np.ndarray  # the tag could be added
    judged: np.ndarray  # the truth is known: the picture carries human labels
    known: np.ndarray  # both
    right: np.ndarray  # ... and the tag is true
    tags: dict[str, np.ndarray]  # OF_TAG, (T,)
    totals: dict[str, int]  # OF_ALL

    def evidence(self, implied: np.ndarray) -> Evidence:
        """What `calibrate` is asked with.

        Args:
            implied: (T,) float, of `data_engine.implied`.

        Returns:
            The counts, with the mean number of captions of a picture.
        """
        captions = self.totals["captions"] / max(1, self.totals["several"])
        once, twice, often = (self.tags[name] for name in OF_TAG)
        return Evidence(self.images, self.said, once, twice, often, captions=captions or 1.0, implied=implied)


def count_cells(
    block: pa.Table,
    *,
    system: LabelSystem,
    votes: int,
    chosen: Callable[[str], bool] = lambda key: True,
    logits: Logits = own_logits,
) -> pa.Table:
    """CELLS rows of a block of SCORES rows.

    Args:
        block: SCORES rows.
        system: the label system that ids are of.
        votes: V - 1, the most generated captions that are told apart.
        chosen: keys of the pictures to count.
        logits: scores of a row's tags: the tagger's own, or weighed (`data_engine.weigh`).
    """
    counter = _Counter(system, votes, logits)
    for row in block.to_pylist():
        if not row["reason"] and chosen(row["key"]):
            counter.add(row)
    return counter.table()


def gather(tables: Iterable[pa.Table], *, num_tags: int, votes: int) -> Cells:
    """The sums of CELLS rows as arrays, with the pictures that gave no row put into the lowest bin.

    Args:
        tables: in each, a cell stands once.
        num_tags: T.
        votes: V - 1, as of `count_cells`.

    Returns:
        Arrays (V, T, B) int64 of the cells, with sums for each tag (T,) and over all.
    """
    shape = (votes + 1, num_tags, BINS)
    flat = {name: np.zeros(np.prod(shape), np.int64) for name in (*OF_CELL, *OF_TAG)}
    totals = dict.fromkeys(OF_ALL, 0)
    for table in tables:
        cell = table["cell"].to_numpy()
        for name, counts in flat.items():
            counts[cell[cell >= 0]] += table[name].to_numpy()[cell >= 0]
        totals = {name: number + int(table[name].to_numpy()[cell < 0].sum()) for name, number in totals.items()}
    cells = {name: flat[name].reshape(shape) for name in OF_CELL}
    rest = totals["pictures"] - cells["images"].sum((0, 2))  # (T,)
    unjudged = totals["labelled"] - cells["judged"].sum((0, 2))
    for name, missing in (("images", rest), ("open", rest), ("judged", unjudged), ("known", unjudged)):
        cells[name][0, :, 0] += missing
    return Cells(**cells, tags={name: flat[name].reshape(shape).sum((0, 2)) for name in OF_TAG}, totals=totals)


def mentions(row: Mapping[str, Any]) -> list[set[int]]:
    """What each original caption of a row says, but for what cleaning took out of it."""
    gone = {one["id"] for one in row["removed"] or []}
    return [set(one["tags"] or []) - gone for one in row["captions"] or [] if one["origin"] == "original"]


class _Counter:
    """Adds up pictures into dense counts, and gives the cells that are not empty."""

    def __init__(self, system: LabelSystem, votes: int, logits: Logits) -> None:
        self.system, self.votes, self.logits = system, votes, logits
        self.counts: dict[str, list[np.ndarray]] = {name: [] for name in (*OF_CELL, *OF_TAG)}
        self.totals: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """One picture."""
        gone = {one["id"] for one in row["removed"] or []}
        have = {one["id"] for one in row["tags"] or []}
        original = mentions(row)
        times_said = Counter(id for one in original for id in one)
        truth = truth_ids(row["labels"], None, self.system)[0]
        votes = votes_of(row)
        places = dict(zip(row["tagger_ids"] or [], bin_of(self.logits(row)).tolist(), strict=True))
        ids = np.array(sorted({*places, *times_said, *have, *gone, *votes, *(truth or ())}), np.int64)
        vote = np.array([min(votes.get(id, 0), self.votes) for id in ids.tolist()], np.int64)
        place = np.array([places.get(id, 0) for id in ids.tolist()], np.int64)
        cells = (vote * len(self.system) + ids) * BINS + place
        is_open = ~np.isin(ids, list(have | gone))
        true = np.isin(ids, list(truth or ()))
        self._note("images", cells)
        self._note("said", cells[np.isin(ids, list(times_said))])
        self._note("open", cells[is_open])
        if truth is not None:
            self._note("judged", cells)
            self._note("known", cells[is_open])
            self._note("right", cells[is_open & true])
            self.totals.update(labelled=1, truths=len(truth), had=len(truth & have))
        if len(original) > 1:
            times = np.minimum([times_said[id] for id in ids.tolist()], 3) if len(ids) else np.zeros(0)
            for number, name in enumerate(OF_TAG, 1):
                self._note(name, ids[times == number] * BINS)
            self.totals.update(several=1, captions=len(original))
        self.totals["pictures"] += 1

    def _note(self, name: str, cells: np.ndarray) -> None:
        self.counts[name].append(cells)

    def table(self) -> pa.Table:
        """CELLS rows."""
        size = (self.votes + 1) * len(self.system) * BINS
        nothing = [np.zeros(0, np.int64)]
        dense = {name: np.bincount(np.concatenate(one or nothing), minlength=size) for name, one in self.counts.items()}
        used = np.flatnonzero(np.any([one > 0 for one in dense.values()], axis=0))
        columns = {"cell": np.append(used, -1)}
        columns |= {name: np.append(one[used], 0) for name, one in dense.items()}
        columns |= {name: np.append(np.zeros(len(used), np.int64), self.totals[name]) for name in OF_ALL}
        return pa.table(columns).cast(CELLS)
