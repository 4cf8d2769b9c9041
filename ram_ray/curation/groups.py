"""From pairs of rows to what becomes of each row: numbers only, so that one task can hold the pairs of all data.

Rows that agree in a url, a sum or their pixels are one image, also through a third row: the connected components of
these pairs. Near duplicates are no such relation (A is near B, B is near C, and C may be far from A), so images are
taken in the order of preference, and one is left out if it is near an image that stays.

    1. an image that held-out rows show too: its training rows are left out
    2. an image of more than `max_rows` training rows: a placeholder, left out
    3. else its rows of one source are merged into the first of them; rows of other sources are left out
    4. an image near a held-out image, or near a training image that stays: left out

Letters: P pairs, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ram_ray.settings.curation import DuplicatesConfig

NEAR, EMBEDDING = "near", "embedding"  # both are near duplicates: by perceptual hashes, by embeddings
KINDS: tuple[str, ...] = (
    "url",
    "sha256",
    "bytes",
    "pixels",
    NEAR,
    EMBEDDING,
)  # of pairs; a row states the first that holds
STAYS, LISTED, MERGED, LEFT_OUT, PLACEHOLDER = range(5)  # what becomes of a row; a listed row stays too

_ROW = [
    ("id", pa.int64()),
    ("set", pa.int8()),
    ("source", pa.int64()),
]  # ids in order of preference; set 0 is trained on
PAIR = pa.schema(
    [
        *_ROW,
        *((f"other_{name}", kind) for name, kind in _ROW),
        ("kind", pa.int8()),  # index in `KINDS`
        ("distance", pa.int16()),  # bits in which the coarse hashes differ, or 1000 (1 - cosine); 0 for equal values
    ]
)


@dataclass(frozen=True)
class Decisions:
    """What becomes of the rows of pairs; arrays (R,) in ascending order of `id`."""

    id: np.ndarray
    target: np.ndarray  # id of the row that stays in its place; its own where the row stays
    action: np.ndarray  # LISTED and so on
    kind: np.ndarray
    distance: np.ndarray

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find rows by their ids.

        Args:
            ids: int64 (n,).

        Returns:
            Positions in `ids` of rows that are in a pair, and their positions here.
        """
        if not len(self.id):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = np.searchsorted(self.id, ids).clip(max=len(self.id) - 1)
        matches = np.flatnonzero(self.id[places] == ids)
        return matches, places[matches]


def decide(pairs: pa.Table, *, config: DuplicatesConfig) -> Decisions:
    """Decide what becomes of the rows of pairs.

    Args:
        pairs: PAIR rows (P); repeated pairs do no harm.
        config: of the run.

    Returns:
        The decisions, which do not depend on the order of the pairs.
    """
    rows = _Rows(pairs)
    kinds, distances = pairs["kind"].to_numpy(), pairs["distance"].to_numpy()
    is_near = kinds >= KINDS.index(NEAR)
    images = _Images(rows, _components(len(rows.id), rows.left[~is_near], rows.right[~is_near]))
    left, right = images.of_row[rows.left], images.of_row[rows.right]
    is_near &= left != right  # rows of one image are near duplicates too
    near = left[is_near], right[is_near], distances[is_near]
    leaks = images.find_leaks(*near)
    copies = images.find_copies(*near, gone=leaks.is_set & (config.of_eval == "leave_out"), config=config)

    action, target = images.unite(in_training=config.in_training)
    kind, near_kind = np.full((2, len(rows.id)), KINDS.index(EMBEDDING), np.int8)
    np.minimum.at(kind, np.concatenate([rows.left, rows.right]), np.tile(kinds, 2))
    near_rows = np.concatenate([rows.left[is_near], rows.right[is_near]])
    np.minimum.at(near_kind, near_rows, np.tile(kinds[is_near], 2))
    distance = np.zeros(len(rows.id), np.int16)
    for found, leaves_out in ((copies, config.in_training), (leaks, config.of_eval)):
        applies = images.is_trained & found.is_set[images.of_row]
        if leaves_out == "keep":
            applies &= action == STAYS
        of_row = images.of_row[applies]
        action[applies] = LISTED if leaves_out == "keep" else LEFT_OUT
        target[applies], distance[applies] = found.target[of_row], found.distance[of_row]
        kind[applies] = np.where(found.is_near[of_row], near_kind[applies], kind[applies])
    crowded = images.is_trained & (images.num_trained > config.max_rows)[images.of_row] & ~leaks.is_set[images.of_row]
    action[crowded], target[crowded] = PLACEHOLDER, images.first_trained[images.of_row[crowded]]
    return Decisions(rows.id, rows.id[target], action, kind, distance)


@dataclass(frozen=True)
class _Found:
    """For each image the row that it is a duplicate of; arrays over images."""

    target: np.ndarray  # position of a row; -1: none
    distance: np.ndarray
    is_near: np.ndarray  # a near duplicate, not the same image

    @property
    def is_set(self) -> np.ndarray:
        return self.target >= 0


class _Rows:
    """The rows of pairs in ascending order of `id`, and the positions of both rows of each pair."""

    def __init__(self, pairs: pa.Table) -> None:
        columns = {
            name: np.concatenate([pairs[name].to_numpy(), pairs[f"other_{name}"].to_numpy()])
            for name in ("id", "set", "source")
        }
        self.id, first, inverse = np.unique(columns["id"], return_index=True, return_inverse=True)
        self.set, self.source = columns["set"][first], columns["source"][first]
        self.left, self.right = inverse[: len(pairs)], inverse[len(pairs) :]


class _Images:
    """The images that rows show. `of_row` is the image of each row; first rows are positions of rows, -1 for none."""

    def __init__(self, rows: _Rows, of_row: np.ndarray) -> None:
        self._rows, self.of_row = rows, of_row
        self._num = int(of_row.max(initial=-1)) + 1
        self.is_trained = rows.set == 0
        self.num_trained = np.bincount(of_row[self.is_trained], minlength=self._num)
        self.first_trained, self._first_held_out = self._first(self.is_trained), self._first(~self.is_trained)

    def _first(self, mask: np.ndarray) -> np.ndarray:
        first = np.full(self._num, -1)
        positions = np.flatnonzero(mask)[::-1]
        first[self.of_row[positions]] = positions  # the last that is written is the first row
        return first

    def unite(self, *, in_training: str) -> tuple[np.ndarray, np.ndarray]:
        """Merge the rows of an image in each set and source; training rows of other sources are left out, or listed.

        Args:
            in_training: as of `DuplicatesConfig`.

        Returns:
            Action and target of each row.
        """
        rows, positions = self._rows, np.arange(len(self.of_row))
        order = np.lexsort((positions, rows.source, rows.set, self.of_row))
        is_start = np.zeros(len(order), bool)
        for values in (self.of_row, rows.set, rows.source):
            is_start |= np.diff(values[order], prepend=0) != 0
        is_start[:1] = True
        starts = np.flatnonzero(is_start)
        target = np.empty(len(order), np.int64)
        target[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
        action = np.where(target == positions, STAYS, MERGED).astype(np.int8)
        primary = self.first_trained[self.of_row]
        elsewhere = self.is_trained & (rows.source != rows.source[primary])
        if in_training == "keep":
            elsewhere &= action == STAYS
        action[elsewhere], target[elsewhere] = LISTED if in_training == "keep" else LEFT_OUT, primary[elsewhere]
        return action, target

    def find_leaks(self, left: np.ndarray, right: np.ndarray, distances: np.ndarray) -> _Found:
        """Training images that held-out rows show, or that are near duplicates of held-out images.

        Args:
            left: images of near pairs.
            right: the other images.
            distances: of the pairs.

        Returns:
            The held-out row of each image: of the same image, or of the nearest.
        """
        left, right = np.concatenate([left, right]), np.concatenate([right, left])
        distances = np.tile(distances, 2)
        held_out = self._first_held_out[right]
        is_leak = (self.first_trained[left] >= 0) & (held_out >= 0)
        left, held_out, distances = left[is_leak], held_out[is_leak], distances[is_leak]
        order = np.lexsort((held_out, distances, left))[::-1]  # the last that is written is the nearest
        target, distance = np.full(self._num, -1), np.zeros(self._num, np.int16)
        target[left[order]], distance[left[order]] = held_out[order], distances[order]
        is_same = (self.first_trained >= 0) & (self._first_held_out >= 0)
        target[is_same], distance[is_same] = self._first_held_out[is_same], 0
        return _Found(target, distance, ~is_same)

    def find_copies(
        self, left: np.ndarray, right: np.ndarray, distances: np.ndarray, *, gone: np.ndarray, config: DuplicatesConfig
    ) -> _Found:
        """Training images that are near a training image that stays, taken in the order of their first rows.

        Args:
            left: images of near pairs.
            right: the other images.
            distances: of the pairs.
            gone: images that are left out for another reason.
            config: of the run.

        Returns:
            The first row of the image that stays, for each image.
        """
        first = self.first_trained
        gone = gone | (self.num_trained > config.max_rows)
        is_pair = (first[left] >= 0) & (first[right] >= 0) & ~gone[left] & ~gone[right]
        left, right, distances = left[is_pair], right[is_pair], distances[is_pair]
        swaps = first[left] > first[right]
        left, right = np.where(swaps, right, left), np.where(swaps, left, right)
        order = np.lexsort((first[left], distances, first[right]))
        target, distance = np.full(self._num, -1), np.zeros(self._num, np.int16)
        for earlier, image, bits in zip(
            left[order].tolist(), right[order].tolist(), distances[order].tolist(), strict=True
        ):
            if target[image] < 0 and target[earlier] < 0:
                target[image], distance[image] = first[earlier], bits
        return _Found(target, distance, np.ones(self._num, bool))


def _components(num_rows: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The connected component of each row, numbered from 0 on."""
    graph = coo_array((np.ones(len(left), np.int32), (left, right)), shape=(num_rows, num_rows))
    return connected_components(graph, directed=False)[1] if num_rows else np.zeros(0, np.int64)
