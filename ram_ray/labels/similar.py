"""Synonyms by embeddings: two names of one kind merge if each is the other's nearest and the cosine is high enough.

Nearest neighbours of one another only: with a threshold alone, a row of small steps ("mug", "cup", "bowl", "plate")
becomes one label. Vectors come from a file (`names` and `vectors` in an .npz, or text lines "name 0.1 0.2 ..." as
word2vec and GloVe write them), or from the run's own text encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np

from ram_ray.labels.merge import Groups
from ram_ray.labels.names import Key, plain

_CHUNK = 1024
_MAX_WIDTH = 8192
_MAX_LINE = 1_000_000


def read_vectors(uri: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Vectors of names; only what is asked for is kept.

    Args:
        uri: of an .npz with `names` (N,) and `vectors` (N, D), or of text lines "name 0.1 0.2 ...".
        names: those that are wanted.

    Returns:
        Name -> (D,) float32, of those names that the file has.

    Raises:
        ValueError: if the file cannot be read or is in neither form.
    """
    wanted = set(names)
    try:
        with fsspec.open(uri, "rb") as file:
            if Path(uri).suffix == ".npz":
                stored = np.load(file, allow_pickle=False)
                listed = [plain(str(name)) for name in stored["names"]]
                vectors = np.asarray(stored["vectors"], dtype=np.float32)
                if vectors.ndim != 2 or len(vectors) != len(listed):
                    raise ValueError(f"names has {len(listed)} entries and vectors the shape {vectors.shape}")
                return {name: vectors[place] for place, name in enumerate(listed) if name in wanted}
            return dict(_text_vectors(file, wanted))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"{uri}: cannot be read as embeddings ({str(error)[:200]}); labels.embeddings takes an .npz with names "
            "(N,) and vectors (N, D), or text lines 'name 0.1 0.2 ...'"
        ) from None


def _text_vectors(file: Iterable[bytes], wanted: set[str]) -> Iterable[tuple[str, np.ndarray]]:
    width = None
    for number, line in enumerate(file, 1):
        if len(line) > _MAX_LINE:
            raise ValueError(f"line {number} has {len(line)} bytes")
        name, *numbers = line.decode("utf-8", "replace").rstrip().split(" ")
        if number == 1 and len(numbers) == 1:  # word2vec's first line: how many, how wide
            continue
        width = width or len(numbers)
        if len(numbers) != width or not 1 < width <= _MAX_WIDTH:
            raise ValueError(f"line {number} has {len(numbers)} numbers, the first {width}")
        if (name := plain(name)) in wanted:
            yield name, np.array(numbers, dtype=np.float32)


def merge_similar(
    groups: Groups, counts: Mapping[Key, int], vectors: Mapping[str, np.ndarray], *, similarity: float
) -> None:
    """Merge pairs of names that are each other's nearest, at a cosine of at least `similarity`.

    Args:
        groups: of names that mean the same; changed.
        counts: the names that may merge; of a group that is merged already its most frequent name speaks.
        vectors: name -> (D,), all of one width; names without a vector are left alone.
        similarity: least cosine, -1 to 1.
    """
    for kind in sorted({kind for _, kind in counts}):
        leaders = _leaders(groups, counts, kind)
        names = [name for name in leaders if name[0] in vectors and np.linalg.norm(vectors[name[0]]) > 0]
        if len(names) < 2:
            continue
        matrix = np.stack([vectors[name[0]] for name in names]).astype(np.float64)  # (N, D)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        nearest, cosine = _nearest(matrix)
        for place, name in enumerate(names):
            other = int(nearest[place])
            if place < other and nearest[other] == place and cosine[place] >= similarity:
                groups.join(name, names[other], "embedding")


def _leaders(groups: Groups, counts: Mapping[Key, int], kind: str) -> Sequence[Key]:
    """The most frequent name of each group of a kind, in the order of names."""
    best: dict[Key, Key] = {}
    for key in counts:
        if key[1] == kind:
            root = min(groups.members(key))
            if root not in best or (-counts[key], key) < (-counts[best[root]], best[root]):
                best[root] = key
    return sorted(best.values())


def _nearest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of a normalised matrix (N, D) the place of its nearest other row, and their cosine."""
    nearest = np.zeros(len(matrix), dtype=np.int64)
    cosine = np.zeros(len(matrix))
    for start in range(0, len(matrix), _CHUNK):  # N x N would not fit for large vocabularies
        rows = np.round(matrix[start : start + _CHUNK] @ matrix.T, 6)  # rounded: the same on every machine
        places = np.arange(len(rows))
        rows[places, start + places] = -2.0
        nearest[start : start + len(rows)] = rows.argmax(axis=1)
        cosine[start : start + len(rows)] = rows[places, nearest[start : start + len(rows)]]
    return nearest, cosine
