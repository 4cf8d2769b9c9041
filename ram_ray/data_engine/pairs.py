"""Which tags the captions say together, counted once for two uses: say rates (`data_engine.implied`) and company.

Company is what a picture's captions say for a tag that they do not say, or would, had they not said it: the sum over
the other tags j that they say of how much oftener than by chance t stands beside j,

    company(picture, t) = sum over j of log((n(t, j) + A) / (n(t) n(j) / n + A))

as in cleaning (`data_engine.company`), but for all tags of a picture at once. Three choices make it sound evidence:

    others   Only what the captions say counts, and of that what cleaning left. A tag that the engine added was asked
             for because of the tags beside it, and would vouch for them in turn; a generated caption is the model's
             word, which is heard on its own (`data_engine.calibrate`, votes).
    itself   A tag is not its own company, so one that is said is measured against the other said ones, as it would be
             if it were not said: said and unsaid are alike but for what the others tell.
    by part  n(.) are counts over the pictures of all parts but the picture's own, parts being those of `data.parts`.
             Otherwise the pair of a said tag with each of the others has been counted once more than it would be had
             the tag not been said, and every pair that occurs once would vouch for itself. Leaving out the picture
             alone is not enough: what it says is then lower by one than what it does not say.

Names that share a word ("player", "football player") are no company: the caption said both at once.

A picture with no other tag has company 0, which is the prior odds unchanged. What is held is a row for each pair that
occurs, so it is bounded by the vocabulary, whatever the number of pictures.

Letters: T tags, E pairs that occur (in both orders, and each tag with itself), P parts, J said tags, K tags asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.parts import part_of
from ram_ray.data_engine.company import SMOOTHING
from ram_ray.data_engine.evidence import mentions
from ram_ray.label_system import LabelSystem

PARTS = 5  # P: a fifth of the pictures is not counted for each, and counts are kept five times
_OF_PART = tuple(f"part_{number}" for number in range(PARTS))
PAIRS = pa.schema([("pair", pa.int64()), *((name, pa.int64()) for name in _OF_PART)])  # u T + t; -1: all pictures
LIMIT = 10.0  # company is within -LIMIT .. LIMIT


def count_pairs(block: pa.Table, *, num_tags: int) -> pa.Table:
    """PAIRS rows of a block of SCORES rows: pictures of each part that say both; a tag with itself: that say it.

    Args:
        block: SCORES rows.
        num_tags: T.
    """
    rows = block.filter(pc.is_null(block["reason"])).select(["key", "captions", "removed"]).to_pylist()
    pairs: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(PARTS)]
    for row in rows:
        ids = said_ids(row)
        here = (ids[:, None] * num_tags + ids[None, :]).ravel()
        pairs[part_of(row["key"], PARTS)].append(np.append(here, -1))
    parts = [np.unique(np.concatenate(one), return_counts=True) for one in pairs]
    every = np.unique(np.concatenate([pair for pair, _ in parts]))
    columns = {"pair": every}
    for name, (pair, count) in zip(_OF_PART, parts, strict=True):
        columns[name] = np.zeros(len(every), np.int64)
        columns[name][np.searchsorted(every, pair)] = count
    return pa.table(columns).cast(PAIRS)


def said_ids(row: Mapping[str, Any]) -> np.ndarray:
    """Tags that the original captions of a row say and cleaning left.

    Args:
        row: of ANNOTATION or SCORES.

    Returns:
        (J,) int64, ascending.
    """
    return np.array(sorted(set().union(*mentions(row))), np.int64)


@dataclass(frozen=True)
class Pairs:
    """How many pictures say two tags, as rows by tag: those of tag u are `starts[u]` to `starts[u + 1]`."""

    starts: np.ndarray  # (T + 1,) int64
    other: np.ndarray  # (E,) int32, in order within a row
    inside: np.ndarray  # (E, P) int32, pictures of each part that say both
    pictures: np.ndarray  # (P,) int64
    kin_starts: np.ndarray  # (T + 1,) int64; rows by tag as above
    kin: np.ndarray  # tags that are no company for the row's, itself among them, int32

    @property
    def num_tags(self) -> int:
        """T."""
        return len(self.starts) - 1

    def said(self) -> np.ndarray:
        """Pictures of each part that say the tag.

        Returns:
            (T, P) int64.
        """
        counts = np.zeros((self.num_tags, PARTS), np.int64)
        one = np.repeat(np.arange(self.num_tags), np.diff(self.starts))
        alone = one == self.other
        counts[one[alone]] = self.inside[alone]
        return counts


def gather_pairs(tables: Iterable[pa.Table], system: LabelSystem) -> Pairs:
    """PAIRS rows, in which a pair stands once, as `Pairs`.

    Args:
        tables: of PAIRS rows.
        system: the labels, with names that are kin.
    """
    num_tags = len(system)
    parts = [
        (table["pair"].to_numpy(), np.stack([table[name].to_numpy() for name in _OF_PART], axis=1).astype(np.int32))
        for table in tables
    ]
    pair = np.concatenate([np.zeros(0, np.int64), *(one for one, _ in parts)])
    inside = np.concatenate([np.zeros((0, PARTS), np.int32), *(one for _, one in parts)])
    order = np.argsort(pair, kind="stable")
    pictures = inside[pair < 0].sum(axis=0, dtype=np.int64)
    order = order[pair[order] >= 0]
    pair, inside = pair[order], inside[order]
    kin_starts, kin = _kin(system)
    return Pairs(
        _starts(pair // num_tags, num_tags), (pair % num_tags).astype(np.int32), inside, pictures, kin_starts, kin
    )


class Company:
    """Measures of a picture's tags; made once, asked for each picture."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        said = pairs.said()
        self._said = said.sum(axis=1, keepdims=True) - said  # (T, P) of the other parts
        self._pictures = np.maximum(pairs.pictures.sum() - pairs.pictures, 1)  # (P,)

    def __call__(self, said: np.ndarray, *, of: np.ndarray, part: int) -> np.ndarray:
        """Company of tags in a picture.

        Args:
            said: (J,) int64, the tags that its captions say.
            of: (K,) int64, the tags that are measured.
            part: of the picture; what that part says is not counted.

        Returns:
            (K,) float, in nats, clipped to +-`LIMIT`.
        """
        pairs = self.pairs
        both = np.zeros((len(said), pairs.num_tags), np.float32)
        apart = np.zeros(both.shape, bool)
        for place, tag in enumerate(said.tolist()):
            row = slice(pairs.starts[tag], pairs.starts[tag + 1])
            inside = pairs.inside[row]
            both[place, pairs.other[row]] = inside.sum(axis=1) - inside[:, part]
            apart[place, pairs.kin[pairs.kin_starts[tag] : pairs.kin_starts[tag + 1]]] = True
        chance = np.outer(self._said[said, part], self._said[of, part]) / self._pictures[part]
        lift = np.log((both[:, of] + SMOOTHING) / (chance + SMOOTHING))
        return np.clip(np.where(apart[:, of], 0.0, lift).sum(axis=0), -LIMIT, LIMIT)


def _kin(system: LabelSystem) -> tuple[np.ndarray, np.ndarray]:
    """For each tag those whose names share a word with its own, itself among them, as rows by tag."""
    of_word: dict[str, list[int]] = defaultdict(list)
    for label in system.labels:
        for word in set(label.name.replace("-", " ").split()):
            of_word[word].append(label.id)
    kin = {(one, other) for ids in of_word.values() for one in ids for other in ids}
    kin |= {(id, id) for id in range(len(system))}
    pairs = np.array(sorted(kin), np.int64).reshape(-1, 2)
    return _starts(pairs[:, 0], len(system)), pairs[:, 1].astype(np.int32)


def _starts(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Where each row begins in sorted `rows`, and where the last ends, (num_rows + 1,)."""
    return np.searchsorted(rows, np.arange(num_rows + 1)).astype(np.int64)
