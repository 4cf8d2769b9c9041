"""Pairs of rows that agree in a value, and pairs of images whose perceptual hashes are near, without comparing all.

The coarse hash is divided into 8 bands of 8 bits. Two hashes that differ in at most 6 bits agree in at least two bands,
so each of the 28 pairs of bands is a table with a key of 16 bits, and only images with the same key in a table are
compared. Hashes that differ in 8 bits are found where the differences leave two bands free, which they mostly do. (The
bits are above or below a median, so that half of them are set and two hashes differ in an even number.)

The images with one key grow with the data. So the hashes of a key are compared side by side in memory, which costs
little beside sorting them, and for more than `MANY` images there are 9 bands of 7 bits, and each of the 84 triples of
bands is a table with a key of 21 bits: again hashes that differ in at most 6 bits are always found.

A task takes some tables, and of each table or value only the keys of its slice, so its memory is bounded by the
number of slices. What it finds does not depend on how the work is divided.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ram_ray.curation.perceptual_hash import SIGNATURE, confirm, mirror_colours

Table = tuple[int, ...]  # bands
TABLES: tuple[Table, ...] = tuple(combinations(range(8), 2))
WIDE_TABLES: tuple[Table, ...] = tuple(combinations(range(9), 3))
MANY = 500_000  # images, from which on wide tables are quicker
_BAND_BITS = {2: 8, 3: 7}  # by the bands of a table
MAX_NEIGHBOURS = 2000  # images of one key that an image is compared with: bounds the time of one crowded key

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # positions of both rows, and the bits in which their hashes differ


def pair_equal(values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair rows with equal values: each with the first of its value.

    Args:
        values: int64 (N,).
        order: int64 (N,), distinct; the row with the least is the first.

    Returns:
        Positions of the first rows, and of the others.
    """
    sorted_rows = np.lexsort((order, values))
    starts = np.flatnonzero(np.diff(values[sorted_rows], prepend=values[sorted_rows][:1] - 1))
    firsts = np.repeat(sorted_rows[starts], np.diff(starts, append=len(values)))
    is_other = firsts != sorted_rows
    return firsts[is_other], sorted_rows[is_other]


def pair_near(
    signatures: np.ndarray,
    *,
    max_distance: int,
    mirrored: bool = True,
    tables: Sequence[Table] = TABLES,
    slice_index: int = 0,
    num_slices: int = 1,
) -> Pairs:
    """Pair near duplicates.

    Rows with one signature are paired with the first of them alone, and that one with others.

    Args:
        signatures: `SIGNATURE` (N,), in the order in which rows are preferred.
        max_distance: most bits in which the coarse hashes of a pair differ.
        mirrored: whether mirrored images are near duplicates.
        tables: that are looked up.
        slice_index: of the keys of each table that are looked up, 0 to num_slices - 1.
        num_slices: number of slices.

    Returns:
        Pairs of rows, the lower position first; a pair that several tables find is there once.
    """
    owners, first_of = _find_distinct(signatures)
    found: list[Pairs] = [_same_signature(owners[first_of] if tables[0] in (TABLES[0], WIDE_TABLES[0]) else owners[:0])]
    entries = _Entries(signatures[owners], owners, mirrored=mirrored)
    bands = {width: _bands(entries.coarse, width) for width in {len(table) for table in tables}}
    for table in tables:
        rows, keys = _sort_rows(_join(bands[len(table)], table), slice_index=slice_index, num_slices=num_slices)
        near = _near_neighbours(keys, entries.coarse[rows], max_distance=max_distance)
        found.append(entries.match(*(rows[positions] for positions in near)))
    return _unique_pairs(found)


def expected_comparisons(num_rows: int) -> float:
    """How many pairs of hashes are compared, if the hashes are spread evenly over the keys.

    Args:
        num_rows: rows with signatures; each has two hashes, its own and its mirror image's.

    Returns:
        The number, over all tables.
    """
    family = WIDE_TABLES if num_rows > MANY else TABLES
    num_keys = 2 ** (len(family[0]) * _BAND_BITS[len(family[0])])
    entries = 2 * num_rows
    return len(family) * entries * min(entries / num_keys / 2, MAX_NEIGHBOURS)


class _Entries:
    """What is looked up: each signature, and its mirror image."""

    def __init__(self, signatures: np.ndarray, owners: np.ndarray, *, mirrored: bool) -> None:
        copies = 2 if mirrored else 1
        names = ["coarse", "mirrored_coarse"][:copies], ["fine", "mirrored_fine"][:copies]
        self.coarse = np.concatenate([signatures[name] for name in names[0]])
        self._fine = np.concatenate([signatures[name] for name in names[1]])
        colours = signatures["colour"]
        self._colours = np.concatenate([colours, mirror_colours(colours)][:copies])
        self._owners = np.tile(owners, copies)
        self._num = len(signatures)

    def match(self, left: np.ndarray, right: np.ndarray) -> Pairs:
        """The near duplicates among pairs of entries whose hashes are near, as pairs of rows.

        Two mirrored entries say nothing new.
        """
        is_new = (np.minimum(left, right) < self._num) & (self._owners[left] != self._owners[right])
        left, right = left[is_new], right[is_new]
        distances = np.bitwise_count(self.coarse[left] ^ self.coarse[right])
        matches = confirm(self._fine[left], self._colours[left], self._fine[right], self._colours[right])
        rows, others = self._owners[left[matches]], self._owners[right[matches]]
        return np.minimum(rows, others), np.maximum(rows, others), distances[matches].astype(np.int64)


def select_slice(signatures: np.ndarray, *, tables: Sequence[Table], slice_index: int, num_slices: int) -> np.ndarray:
    """The rows that a task needs.

    Args:
        signatures: `SIGNATURE` (N,).
        tables: that are looked up.
        slice_index: of the keys of each table, 0 to num_slices - 1.
        num_slices: number of slices.

    Returns:
        bool (N,): whether one of the row's keys is in the slice, its own or that of its mirror image.
    """
    mask = np.zeros(len(signatures), bool)
    for table in tables:
        mask |= (slices_of(signatures, table, num_slices=num_slices) == slice_index).any(axis=0)
    return mask


def slices_of(signatures: np.ndarray, table: Table, *, num_slices: int) -> np.ndarray:
    """The slices of a table that rows are in.

    Args:
        signatures: `SIGNATURE` (N,).
        table: that is looked up.
        num_slices: number of slices.

    Returns:
        int64 (2, N), 0 to num_slices - 1: the slice of the row's key, and of its mirror image's.
    """
    names = ("coarse", "mirrored_coarse")
    return np.stack([_join(_bands(signatures[name], len(table)), table) % num_slices for name in names]).astype(
        np.int64
    )


def _find_distinct(signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct signature, and for each row the index of its own among these.

    They are compared by a number made of their bytes: numpy sorts numbers far faster than records.
    """
    words = np.ascontiguousarray(signatures).view(np.uint64).reshape(len(signatures), SIGNATURE.itemsize // 8)
    factors = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    _, owners, first_of = np.unique((words * factors).sum(1, dtype=np.uint64), return_index=True, return_inverse=True)
    if (words == words[owners[first_of]]).all():
        return owners, first_of
    raw = words.view(f"V{SIGNATURE.itemsize}").reshape(-1)  # two signatures have one number: once in 1e19 pairs
    _, owners, first_of = np.unique(raw, return_index=True, return_inverse=True)
    return owners, first_of


def _same_signature(firsts: np.ndarray) -> Pairs:
    """Rows paired with the first row of the same signature; they are together in each table, so one table does it."""
    others = np.flatnonzero(firsts != np.arange(len(firsts)))
    rows = firsts[others]
    return np.minimum(rows, others), np.maximum(rows, others), np.zeros(len(others), np.int64)


def _bands(hashes: np.ndarray, width: int) -> list[np.ndarray]:
    """The bands of hashes, of which a table joins `width`: uint16 or uint32 (N,) each."""
    bits, dtype = _BAND_BITS[width], np.uint16 if width == 2 else np.uint32
    mask = np.uint64(2**bits - 1)
    return [(hashes >> np.uint64(bits * band) & mask).astype(dtype) for band in range(width + 6)]


def _join(bands: Sequence[np.ndarray], table: Table) -> np.ndarray:
    """The key of each hash in a table."""
    keys = bands[table[0]]
    for band in table[1:]:
        keys = keys << _BAND_BITS[len(table)] | bands[band]
    return keys


def _sort_rows(keys: np.ndarray, *, slice_index: int, num_slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the keys of a slice, sorted by key and then by position, and their keys.

    Key and position are sorted as one number: numpy sorts numbers several times as fast as positions by their numbers.
    """
    pairs = keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint64)
    if num_slices > 1:
        pairs = pairs[keys % num_slices == slice_index]
    pairs.sort()
    return (pairs & np.uint64(2**32 - 1)).astype(np.int64), (pairs >> np.uint64(32)).astype(keys.dtype)


def _near_neighbours(keys: np.ndarray, hashes: np.ndarray, *, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions with equal keys and near hashes; an entry has at most `MAX_NEIGHBOURS` after it.

    Args:
        keys: (N,), sorted.
        hashes: uint64 (N,), in the order of the keys, so that what is compared lies side by side in memory.
        max_distance: most bits in which the hashes of a pair differ.

    Returns:
        Positions of both, the lower first.
    """
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] ^ 1))
    lengths = np.diff(starts, append=len(keys))
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    active = np.flatnonzero(np.repeat(lengths, lengths) > 1)  # crowded keys alone are looked at again
    last = np.repeat(starts + lengths - 1, lengths)[active]
    for offset in range(1, MAX_NEIGHBOURS + 1):
        goes_on = active + offset <= last
        active, last = active[goes_on], last[goes_on]
        if not len(active):
            break
        distances = np.bitwise_count(hashes[active] ^ hashes[active + offset])
        near = active[distances <= max_distance]
        left.append(near)
        right.append(near + offset)
    return np.concatenate(left), np.concatenate(right)


def _unique_pairs(found: list[Pairs]) -> Pairs:
    rows, others, distances = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.lexsort((distances, others, rows))
    rows, others, distances = rows[order], others[order], distances[order]
    is_first = (np.diff(rows, prepend=-1) != 0) | (np.diff(others, prepend=-1) != 0)
    return rows[is_first], others[is_first], distances[is_first]
