"""The label system: the frozen, versioned list of tags that a run learns and a model bundle carries.

`ram_ray.labels` builds it; training, inference and serving only read it. A label's id is its place in the
list and never changes within a version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

import fsspec
import numpy as np

from ram_ray.records import KINDS

LISTS = ("synonyms", "ambiguous", "read_as")  # fields of a label that hold several names


@dataclass(frozen=True)
class Label:
    """One tag: an entry of the label system."""

    id: int
    name: str  # lower case, lemmas, words joined by one space
    kind: str  # object | scene | attribute | action
    count: int = 0  # captions that name it
    synonyms: tuple[str, ...] = ()
    threshold: float | None = None  # probability from which on the tag is there; None: the model's default
    ambiguous: tuple[str, ...] = ()  # of name and synonyms: words that captions mostly use for something else
    read_as: tuple[str, ...] = ()  # other kinds under which a parser may give its names
    chinese: str | None = None  # the name in Chinese, where an imported list gives it


def is_present(scores: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """The one rule of thresholds: a tag is there when its probability is at least its threshold.

    The released evaluation counts by `>=`, and reported precision and recall follow it, so tags are given by `>=` too.
    (The released `generate_tag` has `>`; the two differ at exact ties only.) With a threshold of 0 every tag is
    there, also one whose probability is rounded to 0.

    Args:
        scores: probabilities of any shape, (..., N).
        thresholds: one for all, or an array that broadcasts to `scores`; compared in the type of `scores`.

    Returns:
        bool, the shape of `scores`.
    """
    return scores >= np.asarray(thresholds, dtype=scores.dtype)


class LabelSystem:
    """An ordered list of labels with look-up by name or synonym.

    Args:
        labels: in the order of their ids, 0 to N - 1.
        unique: False allows two labels of a kind to share a name, as lists of other projects do; `find` then gives the
            first of them, and only ids tell them apart.

    Raises:
        ValueError: if ids are not 0..N-1 in order, a kind is unknown, or two labels of a kind share a name.
    """

    def __init__(self, labels: Iterable[Label], *, unique: bool = True) -> None:
        self.labels, self.unique = tuple(labels), unique
        for place, label in enumerate(self.labels):
            if label.id != place:
                raise ValueError(f"label {label.name!r} has id {label.id} but stands at {place}; ids are places")
            if label.kind not in KINDS:
                raise ValueError(f"label {label.name!r} has kind {label.kind!r}; use one of {', '.join(KINDS)}")
        self._by_name: dict[tuple[str, str], int] = {}
        for label in self.labels:
            if unique and (label.kind, label.name) in self._by_name:
                raise ValueError(f"label {label.name!r} of kind {label.kind} is there twice")
            self._by_name.setdefault((label.kind, label.name), label.id)
        for label in self.labels:
            for synonym in label.synonyms:
                self._by_name.setdefault((label.kind, synonym), label.id)
        for label in self.labels:  # last, so that a misreading never hides a label of its own
            for kind in label.read_as:
                for name in (label.name, *label.synonyms):
                    self._by_name.setdefault((kind, name), label.id)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, id: int) -> Label:
        return self.labels[id]

    @property
    def names(self) -> list[str]:
        """Names in the order of ids."""
        return [label.name for label in self.labels]

    def thresholds(self, default: float) -> np.ndarray:
        """Each label's threshold.

        Args:
            default: for labels without a threshold of their own (`model.threshold`).

        Returns:
            (N,) float32, in the order of ids.
        """
        values = [default if label.threshold is None else label.threshold for label in self.labels]
        return np.array(values, dtype=np.float32)

    @cached_property
    def version(self) -> str:
        """Digest of names, kinds and synonyms: what a model's outputs mean."""
        meaning = [(label.name, label.kind, sorted(label.synonyms)) for label in self.labels]
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:12]

    def find(self, name: str, kind: str | None = None) -> int | None:
        """Id of the label with this name or synonym; without a kind, the first kind that has it.

        Args:
            name: as it is written in the system.
            kind: one of `records.KINDS`; None: any.
        """
        kinds = (kind,) if kind else KINDS
        return next((self._by_name[one, name] for one in kinds if (one, name) in self._by_name), None)

    def to_json(self) -> str:
        """The whole system as JSON text."""
        tree = {"version": self.version, "labels": [asdict(label) for label in self.labels]}
        return json.dumps(tree if self.unique else {**tree, "unique": False}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LabelSystem:
        """Read what `to_json` wrote.

        Raises:
            ValueError: if the text is not a label system, or was edited without its version.
        """
        try:
            tree = json.loads(text)
            labels = [Label(**{**one, **{name: tuple(one.get(name, ())) for name in LISTS}}) for one in tree["labels"]]
            system = cls(labels, unique=tree.get("unique", True) is not False)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a label system: {error!r}") from error
        if tree.get("version") not in (None, system.version):
            raise ValueError(
                f"the labels have version {system.version} but the file says {tree['version']}; "
                "remove its 'version' line if the edit is meant"
            )
        return system

    def save(self, uri: str) -> None:
        """Write to any fsspec URI."""
        with fsspec.open(uri, "w") as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, uri: str) -> LabelSystem:
        """Read from any fsspec URI."""
        with fsspec.open(uri, "r") as file:
            return cls.from_json(file.read())
