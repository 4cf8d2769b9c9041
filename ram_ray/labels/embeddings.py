"""Merges names by their embeddings: mutual nearest neighbours of a kind whose cosine similarity is high enough.

With a threshold only, a chain of similar names ("mug", "cup", "bowl", "plate") would become one label. Vectors come
from a file (`names` and `vectors` in an .npz, or text lines "name 0.1 0.2 ..." as in word2vec and GloVe files), or from
the run's text encoder. N: names, D: width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np

from ram_ray.label_system import normalize_name
from ram_ray.labels.merge import Groups
from ram_ray.labels.names import Key

_CHUNK = 1024
_MAX_WIDTH = 8192
_MAX_LINE = 1_000_000


def read_vectors(uri: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the vectors of names.

    Args:
        uri: of an .npz with `names` (N,) and `vectors` (N, D), or of text lines "name 0.1 0.2 ...".
        names: whose vectors are read.

    Returns:
        Name -> (D,) float32; names that the file does not contain are omitted.

    Raises:
        ValueError: if the file cannot be read or has neither of the two formats.
    """
    selected = set(names)
    try:
        with fsspec.open(uri, "rb") as file:
            if Path(uri).suffix == ".npz":
                stored = np.load(file, allow_pickle=False)
                stored_names = [normalize_name(str(name)) for name in stored["names"]]
                vectors = np.asarray(stored["vectors"], dtype=np.float32)
                if vectors.ndim != 2 or len(vectors) != len(stored_names):
                    raise ValueError(f"names has {len(stored_names)} entries and vectors the shape {vectors.shape}")
                return {name: vectors[row] for row, name in enumerate(stored_names) if name in selected}
            return dict(_text_vectors(file, selected))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"{uri}: cannot be read as embeddings ({str(error)[:200]}); labels.embeddings takes an .npz with names "
            "(N,) and vectors (N, D), or text lines 'name 0.1 0.2 ...'"
        ) from None


def _text_vectors(file: Iterable[bytes], selected: set[str]) -> Iterable[tuple[str, np.ndarray]]:
    width = None
    for number, line in enumerate(file, 1):
        if len(line) > _MAX_LINE:
            raise ValueError(f"line {number} has {len(line)} bytes")
        name, *numbers = line.decode("utf-8", "replace").rstrip().split(" ")
        if number == 1 and len(numbers) == 1:  # first line of word2vec: N and D
            continue
        width = width or len(numbers)
        if len(numbers) != width or not 1 < width <= _MAX_WIDTH:
            raise ValueError(f"line {number} has {len(numbers)} numbers, the first {width}")
        if (name := normalize_name(name)) in selected:
            yield name, np.array(numbers, dtype=np.float32)


def merge_similar(
    groups: Groups, counts: Mapping[Key, int], vectors: Mapping[str, np.ndarray], *, similarity: float
) -> None:
    """Merge mutual nearest neighbours whose cosine similarity is at least `similarity`.

    Args:
        groups: changed in place; the most frequent name represents a group.
        counts: name and kind -> captions that mention it.
        vectors: name -> (D,), all of the same width; names without a vector are skipped.
        similarity: least cosine similarity, -1 to 1.
    """
    for kind in sorted({kind for _, kind in counts}):
        representatives = _representatives(groups, counts, kind)
        names = [name for name in representatives if name[0] in vectors and np.linalg.norm(vectors[name[0]]) > 0]
        if len(names) < 2:
            continue
        matrix = np.stack([vectors[name[0]] for name in names]).astype(np.float64)  # (N, D)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        nearest, cosine = _nearest(matrix)
        for row, name in enumerate(names):
            other = int(nearest[row])
            if row < other and nearest[other] == row and cosine[row] >= similarity:
                groups.join(name, names[other], "embedding")


def _representatives(groups: Groups, counts: Mapping[Key, int], kind: str) -> Sequence[Key]:
    """The most frequent name of each group of a kind, in the order of names."""
    most_frequent: dict[Key, Key] = {}
    for key in counts:
        if key[1] == kind:
            root = min(groups.members(key))
            best = most_frequent.get(root)
            if best is None or (-counts[key], key) < (-counts[best], best):
                most_frequent[root] = key
    return sorted(most_frequent.values())


def _nearest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index (N,) of the nearest other row of each row of a normalized matrix (N, D), and their cosine (N,)."""
    nearest = np.zeros(len(matrix), dtype=np.int64)
    cosine = np.zeros(len(matrix))
    for start in range(0, len(matrix), _CHUNK):  # (N, N) does not fit into memory for large vocabularies
        rows = np.round(matrix[start : start + _CHUNK] @ matrix.T, 6)  # rounded: equal on every machine
        indices = np.arange(len(rows))
        rows[indices, start + indices] = -2.0  # a row is not its own neighbour
        nearest[start : start + len(rows)] = rows.argmax(axis=1)
        cosine[start : start + len(rows)] = rows[indices, nearest[start : start + len(rows)]]
    return nearest, cosine
