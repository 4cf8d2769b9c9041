"""Counts of tags that captions mention together, for mention rates (`mention_rate_bound`) and co-occurrence.

Co-occurrence is smoothed pointwise mutual information, summed over the other tags j that the image's captions mention:

    score(image, t) = sum over j of log((n(t, j) + A) / (n(t) n(j) / n + A))

as in `data_engine.co_occurrence`, but for all tags of an image at once. Tags that the engine added and tags of
generated captions do not count, since the model is no independent evidence. A tag does not co-occur with itself, so
mentioned and unmentioned tags are measured alike. n(.) leave out the fold (`data.folds`) that the image
belongs to: otherwise a pair that occurs once would support itself. Names that share a word ("player", "football
player") do not co-occur: one phrase mentions both. Memory is a row for each pair that occurs, whatever the number of
images.

Letters: T tags, E pairs that occur (in both orders, and each tag with itself), P folds, J mentioned
tags, K scored tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.folds import fold_index
from ram_ray.data_engine.co_occurrence import SMOOTHING
from ram_ray.data_engine.mention_counts import mentions
from ram_ray.label_system import LabelSystem
from ram_ray.records import Row

FOLDS = 5  # P: a fifth of the images is left out of the counts of each fold
_FOLD_COLUMNS = tuple(f"fold_{number}" for number in range(FOLDS))
PAIRS = pa.schema(
    [("pair", pa.int64()), *((name, pa.int64()) for name in _FOLD_COLUMNS)]
)  # pair is u T + t; -1: all images
MENTION_COLUMNS = ("captions", "tags", "removed", "absent")  # that `mentions` reads
LIMIT = 10.0  # the score is within -LIMIT .. LIMIT


def count_pairs(block: pa.Table, *, num_tags: int) -> pa.Table:
    """Count the images of each fold whose captions mention two tags; a tag with itself counts its mentions.

    Args:
        block: SCORES rows.
        num_tags: T.

    Returns:
        PAIRS rows, a pair once.
    """
    rows = block.filter(pc.is_null(block["reason"])).select(["key", *MENTION_COLUMNS]).to_pylist()
    pairs: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(FOLDS)]
    for row in rows:
        ids = mentioned_ids(row)
        indices = (ids[:, None] * num_tags + ids[None, :]).ravel()
        pairs[fold_index(row["key"], FOLDS)].append(np.append(indices, -1))
    folds = [np.unique(np.concatenate(fold_pairs), return_counts=True) for fold_pairs in pairs]
    all_pairs = np.unique(np.concatenate([pair for pair, _ in folds]))
    columns = {"pair": all_pairs}
    for name, (pair, count) in zip(_FOLD_COLUMNS, folds, strict=True):
        columns[name] = np.zeros(len(all_pairs), np.int64)
        columns[name][np.searchsorted(all_pairs, pair)] = count
    return pa.table(columns).cast(PAIRS)


def mentioned_ids(row: Row) -> np.ndarray:
    """Tags that the original captions or the human labels of a row mention, see `mentions`.

    Args:
        row: of ANNOTATION or SCORES.

    Returns:
        (J,) int64, ascending.
    """
    return np.array(sorted(set().union(*mentions(row))), np.int64)


@dataclass(frozen=True)
class Pairs:
    """Number of images that mention two tags, as a sparse matrix: row u is at `starts[u]` to `starts[u + 1]`."""

    starts: np.ndarray  # (T + 1,) int64
    other: np.ndarray  # (E,) int32 tag, ascending within a row
    pair_counts: np.ndarray  # (E, P) int32, images of each fold that mention both
    num_images: np.ndarray  # (P,) int64, images of each fold
    same_word_starts: np.ndarray  # (T + 1,) int64; rows of `same_word`
    same_word: np.ndarray  # int32, tags whose names share a word with the row's tag, itself among them

    @property
    def num_tags(self) -> int:
        """Number of tags T."""
        return len(self.starts) - 1

    def tag_counts(self) -> np.ndarray:
        """Number of images of each fold that mention the tag.

        Returns:
            (T, P) int64.
        """
        counts = np.zeros((self.num_tags, FOLDS), np.int64)
        tag = np.repeat(np.arange(self.num_tags), np.diff(self.starts))
        diagonal = tag == self.other
        counts[tag[diagonal]] = self.pair_counts[diagonal]
        return counts


def gather_pairs(tables: Iterable[pa.Table], system: LabelSystem) -> Pairs:
    """Collect PAIRS rows.

    Args:
        tables: PAIRS rows; a pair is in one row of all tables.
        system: the label system of the tag ids.

    Returns:
        The counts as a sparse matrix.
    """
    num_tags = len(system)
    arrays = [
        (
            table["pair"].to_numpy(),
            np.stack([table[name].to_numpy() for name in _FOLD_COLUMNS], axis=1).astype(np.int32),
        )
        for table in tables
    ]
    pair = np.concatenate([np.zeros(0, np.int64), *(table_pairs for table_pairs, _ in arrays)])
    pair_counts = np.concatenate([np.zeros((0, FOLDS), np.int32), *(counts for _, counts in arrays)])
    order = np.argsort(pair, kind="stable")
    num_images = pair_counts[pair < 0].sum(axis=0, dtype=np.int64)
    order = order[pair[order] >= 0]
    pair, pair_counts = pair[order], pair_counts[order]
    same_word_starts, same_word = _shared_words(system)
    return Pairs(
        _starts(pair // num_tags, num_tags),
        (pair % num_tags).astype(np.int32),
        pair_counts,
        num_images,
        same_word_starts,
        same_word,
    )


class CoOccurrence:
    """Co-occurrence scores of tags with the tags that the captions of an image mention.

    Args:
        pairs: counts of tags that captions mention together.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        counts = pairs.tag_counts()
        self._tag_counts = counts.sum(axis=1, keepdims=True) - counts  # (T, P) of the other folds
        self._num_images = np.maximum(pairs.num_images.sum() - pairs.num_images, 1)  # (P,)

    def __call__(self, mentioned: np.ndarray, *, tags: np.ndarray, fold: int) -> np.ndarray:
        """Score tags of an image.

        Args:
            mentioned: (J,) int64, the tags that the image's captions mention.
            tags: (K,) int64, the tags to score.
            fold: number of the image's fold, whose images are left out of the counts.

        Returns:
            (K,) float64, in nats, clipped to +-`LIMIT`; 0 without another tag.
        """
        pairs = self.pairs
        both = np.zeros((len(mentioned), pairs.num_tags), np.float32)
        excluded = np.zeros(both.shape, bool)
        for index, tag in enumerate(mentioned.tolist()):
            row = slice(pairs.starts[tag], pairs.starts[tag + 1])
            pair_counts = pairs.pair_counts[row]
            both[index, pairs.other[row]] = pair_counts.sum(axis=1) - pair_counts[:, fold]
            excluded[index, pairs.same_word[pairs.same_word_starts[tag] : pairs.same_word_starts[tag + 1]]] = True
        expected = np.outer(self._tag_counts[mentioned, fold], self._tag_counts[tags, fold]) / self._num_images[fold]
        pmi = np.log((both[:, tags] + SMOOTHING) / (expected + SMOOTHING))
        return np.clip(np.where(excluded[:, tags], 0.0, pmi).sum(axis=0), -LIMIT, LIMIT)


def _shared_words(system: LabelSystem) -> tuple[np.ndarray, np.ndarray]:
    """Tags whose names share a word with a tag's name, itself among them: where each tag's row starts, and the tags."""
    ids_by_word: dict[str, list[int]] = defaultdict(list)
    for label in system.labels:
        for word in set(label.name.replace("-", " ").split()):
            ids_by_word[word].append(label.id)
    shared = {(id, other) for ids in ids_by_word.values() for id in ids for other in ids}
    shared |= {(id, id) for id in range(len(system))}
    pairs = np.array(sorted(shared), np.int64).reshape(-1, 2)
    return _starts(pairs[:, 0], len(system)), pairs[:, 1].astype(np.int32)


def _starts(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Start of each row in sorted `rows`, and the end of the last, (num_rows + 1,)."""
    return np.searchsorted(rows, np.arange(num_rows + 1)).astype(np.int64)
